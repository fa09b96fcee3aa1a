"""A cohort or predictions for other tools: nnU-Net's raw folders, DICOM objects."""
