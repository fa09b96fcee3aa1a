"""The built-in synthetic cohort."""
