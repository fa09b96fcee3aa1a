"""Volumes of image series."""
