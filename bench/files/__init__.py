"""What lies on disk: the step store, NIfTI volumes, provenance; and progress on the terminal."""
