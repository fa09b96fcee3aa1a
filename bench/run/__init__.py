"""A run: its steps in order, its tables and its pictures."""
