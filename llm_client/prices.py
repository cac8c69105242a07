"""The price of a model: from the task file, else from the dated list beside this file, else unknown."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_client.body import sent_body, token_limit
from task.errors import InputError
from task.settings import OpenAI

_LIST = Path(__file__).with_name("prices.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens, and the source of the figures."""

    input: float
    cached: float
    output: float
    source: str

    def of(self, *, prompt: int, completion: int, cached: int = 0) -> float:
        """The cost of a call in dollars.

        Args:
            prompt: Tokens of the prompt, `cached` of which the provider had in its cache.
            completion: Tokens of the answer.
        """
        return ((prompt - cached) * self.input + cached * self.cached + completion * self.output) / 1e6


def price_of(settings: OpenAI, *, batch: bool = False) -> Price | None:
    """The price of a model, or None if there is none in the task file or the list.

    The list is valid for the provider's own address only: another endpoint may charge anything for the same name.
    """
    given = (settings.price_input_per_million, settings.price_output_per_million)
    if given[0] is not None and given[1] is not None:
        return Price(input=given[0], cached=given[0], output=given[1], source="the task file")
    listed = _listed()
    model = listed["models"].get(settings.model)
    if model is None or not settings.base_url.startswith("https://api.openai.com/"):
        return None
    share = listed["batch_discount"] if batch else 1.0
    return Price(
        input=model["input"] * share, cached=model["cached"] * share, output=model["output"] * share,
        source=f"{listed['source']}, {listed['as_of']}",
    )


def needed_price(settings: OpenAI, *, batch: bool = False) -> Price:
    """The price of a model, for a budget.

    Raises:
        InputError: There is none, or the length of answers has no limit, so that no call has a highest cost.
    """
    if token_limit(sent_body({"max_tokens": settings.max_tokens}, settings.extra_body)) is None:
        raise InputError(
            "a budget needs a limit for the tokens of an answer", field="teacher.openai.extra_body.max_tokens",
            found="null", expected="max_tokens or max_completion_tokens in teacher.openai.extra_body",
        )
    price = price_of(settings, batch=batch)
    if price is None:
        listed, beside = _listed()["models"], "price_input_per_million and price_output_per_million beside it"
        if settings.model in listed:
            raise InputError(
                "a budget needs a price, and the price list is for the provider's own address only",
                field="teacher.openai.budget", found=f"{settings.model} at {settings.base_url}", expected=beside,
                fix="Take them from the price list of that endpoint",
            )
        raise InputError(
            "a budget needs a price, and this model has none", field="teacher.openai.budget", found=settings.model,
            expected=f"{beside}, or a model of the price list: {', '.join(listed)}",
        )
    return price


@functools.cache
def _listed() -> Mapping[str, Any]:
    import yaml

    return dict(yaml.safe_load(_LIST.read_text(encoding="utf-8")))
