"""One case from image files: patterns, masks, resampling, checks."""
