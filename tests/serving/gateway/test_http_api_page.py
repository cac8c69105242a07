"""docs/http-api.md names every field of the bodies that it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving.gateway.http_exchange import HttpError
from serving.gateway.openai_api import _content
from serving.routing.route import Answer

PAGE = Path("docs/http-api.md").read_text(encoding="utf-8")


def fields(start: str) -> set[str]:
    """The keys of the body that is shown after a text, down to the end of its code."""
    return set(re.findall(r'"(\w+)":', PAGE[PAGE.index(start) :].partition("`{")[2].partition("}`")[0]))


def test_the_body_of_an_error_has_the_fields_that_the_page_shows() -> None:
    body = json.loads(HttpError(404, kind="not_found", message="no such path").body())
    assert {"error", *body["error"]} == fields("The body is always")


def test_the_content_of_a_chat_completion_has_the_fields_that_the_page_shows() -> None:
    answer = Answer("oat milk", b"[]", "student", probability=0.5)
    assert json.loads(_content(answer)).keys() == fields("the answer's content is JSON")
