"""Pages of single cases."""
