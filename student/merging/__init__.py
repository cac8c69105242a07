"""After training: merge and its parity check, token classifier, 8-bit weights, merging of adapters, forgetting."""

# Increase this when the same adapter gives another merged model or export, or other figures of the check.
VERSION = 2
