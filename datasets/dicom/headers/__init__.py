"""Headers of DICOM files: values, facts, index of a folder."""
