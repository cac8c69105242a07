"""Training data from accepted labels: deduplication, splits, difficulty and noise, order, dataset card."""
