"""What is computed of a run's tables."""
