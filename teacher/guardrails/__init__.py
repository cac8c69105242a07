"""Validation of labels: span matching, grounding in the catalogue, checks, calibrated confidence."""
