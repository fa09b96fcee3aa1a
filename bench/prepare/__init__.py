"""Cases: read, checked, published in a run folder."""
