"""Rigid registration of images of one patient."""
