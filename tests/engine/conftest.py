from tests.serving.conftest import bundle, house

__all__ = ["bundle", "house"]
