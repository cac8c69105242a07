"""The LLM backends: requests of a query, online and batch endpoints, local model, Ray workers, review."""
