"""From accepted labels to training data: deduplication, splits, difficulty and noise, dataset card."""
