"""Numbers, links and templates as text."""
