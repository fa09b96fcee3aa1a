"""Several runs: merged, compared, held to requirements."""
