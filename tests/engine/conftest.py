from tests.serving.conftest import bundle, form, harness

__all__ = ["bundle", "form", "harness"]
