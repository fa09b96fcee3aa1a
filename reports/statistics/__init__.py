"""Statistics on tables of scores: pure functions, paired by patient, each with its reference."""
