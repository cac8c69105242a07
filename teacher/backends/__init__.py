"""Teacher backends: catalogue without an LLM, OpenAI-compatible LLM, batch API, local LLM, imported labels."""
