"""The `catalog` backend: labels from catalogue and conversions, no LLM."""
