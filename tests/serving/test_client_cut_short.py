"""A service that ends its answer early, or is not there, is an error with the number of queries, and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.interface import EngineError
from serving.client import label_all
from task.labels import Example
from tests.serving.local_http import Handler, listening


@contextmanager
def service(body: bytes, *, promised: int | None = None) -> Iterator[str]:
    """Answers every request with `body`; `promised` is the length that it announces."""

    class Service(Handler):
        def post(self) -> None:
            self.body()
            self.reply(body, promised=promised)

    with listening(Service) as url:
        yield url


LINE = b'{"index": 0, "labels": [], "probability": null}\n'


@pytest.mark.parametrize(("body", "promised", "said"), [
    (LINE, None, "the service answered 1 of 2 queries"),
    (LINE, 500, "the service answered 1 of 2 queries"),
    (LINE + b'{"index": 1, "lab', None, "the service did not answer 2 queries after 0 of 2: JSONDecodeError"),
])
def test_an_answer_that_ends_early_is_an_error(body: bytes, promised: int | None, said: str) -> None:
    with service(body, promised=promised) as url, pytest.raises(EngineError, match=said):
        label_all(url, [Example("a"), Example("b")], batch=64, done=lambda _: None)


def test_a_service_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineError, match="the service did not answer 1 queries after 0 of 1: URLError"):
        label_all("http://127.0.0.1:9", [Example("a")], batch=64, done=lambda _: None)
