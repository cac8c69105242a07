"""Training data from accepted labels: deduplication, splits, difficulty and noise, order, dataset card."""

# Increase this when the same labels give other rows, splits, scores or another order.
VERSION = 1
