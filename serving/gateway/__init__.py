"""The HTTP gateway: ASGI application, request bodies, OpenAI's API shape, OpenAPI document, API keys."""
