"""A run folder as the report reads it."""
