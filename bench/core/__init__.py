"""The vocabulary: geometry, cases, structures, fusion, prompts and splits; NumPy and SciPy only."""
