"""What a label must satisfy: span matching, grounding, checks, calibrated confidence."""
