"""Evidence for a query: hybrid search, embeddings, purchases, and the context of an LLM's prompt."""
