"""The training run: job, row order, objective, optimiser, checkpoints, Ray Train launch, reporters."""

# Increase this when the same rows give another adapter; speed alone is no reason.
VERSION = 1
