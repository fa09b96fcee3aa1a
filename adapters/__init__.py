"""Segmentation methods behind one interface; see base.py and CONTRIBUTING.md."""
