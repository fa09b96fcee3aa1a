"""Label maps of contours and segmentations."""
