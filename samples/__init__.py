"""Made-up data with known truth, so that everything runs on a fresh machine."""
