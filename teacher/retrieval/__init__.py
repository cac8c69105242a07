"""Evidence for a query: hybrid search, embeddings, purchases, and the context shown to an LLM."""
