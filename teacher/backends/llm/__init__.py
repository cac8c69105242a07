"""The LLM backends: conversation per query, batch API, local model, Ray workers, second review."""
