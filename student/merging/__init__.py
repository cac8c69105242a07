"""After training: merge and its parity check, token classifier, 8-bit weights, merging of adapters, forgetting."""
