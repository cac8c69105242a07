"""The training run: job, row order, objective, optimiser, checkpoints, Ray Train launch, reporters."""
