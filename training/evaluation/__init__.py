"""What a trained model is worth: one file a kind of benchmark, one result type, one report."""
