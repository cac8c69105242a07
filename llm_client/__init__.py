"""A client for OpenAI-compatible LLMs: prompts, requests with keys, retries, rate limits, prices, budget, parsing."""
