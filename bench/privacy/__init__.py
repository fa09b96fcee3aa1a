"""What may be written: policy, private folder, search for identifying text."""
