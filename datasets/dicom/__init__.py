"""DICOM in: series to volumes, PET to SUV, RTSTRUCT contours to masks. Nothing here finds files or knows a study."""
