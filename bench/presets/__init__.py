"""Layouts of public data sets as patterns: found in a folder, written as a study file."""
