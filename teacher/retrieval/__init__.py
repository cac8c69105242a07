"""Evidence for a query: hybrid search, embeddings, purchases, and the context of an LLM's prompt."""

# Increase this when a search finds other items, or in another order.
VERSION = 2
