"""Scores: metrics of a volume, rows of a case, folders of label maps."""
