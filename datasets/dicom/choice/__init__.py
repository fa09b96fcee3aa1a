"""Which series and structures are meant."""
