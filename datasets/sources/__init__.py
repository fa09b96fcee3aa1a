"""Sources of cases in image files."""
