"""The draft of a methods section: what was done in a run, with its references."""
