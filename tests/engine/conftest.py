from tests.serving.conftest import bundle, harness

__all__ = ["bundle", "harness"]
