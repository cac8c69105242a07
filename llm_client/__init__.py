"""Asking an OpenAI-compatible LLM: requests and their keys, retries, rate limits, prices, budget, reading replies."""
