"""The HTTP gateway: ASGI application, request bodies, OpenAI-compatible API, OpenAPI document, API keys."""
