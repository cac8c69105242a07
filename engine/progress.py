"""How much an engine has computed, by its own counters: they rise while answers are still on their way."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

COUNTERS: Final = frozenset({
    "limbeck_engine_prompts_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total",
})


async def computed(url: str, *, timeout_s: float) -> float | None:
    """The sum of `COUNTERS` in an engine's `/metrics`; None where it has none of them, or does not answer.

    Args:
        url: Base URL of the engine.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.get(f"{url}/metrics") as response,
        ):
            text = await response.text()
        found = [
            sample.value for family in text_string_to_metric_families(text) for sample in family.samples
            if sample.name in COUNTERS
        ]
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    return sum(found) if found else None


class ProgressCheck:
    """Looks at an engine's counters while it is suspected to hang; belongs to one event loop.

    Args:
        url: Base URL of the engine.
        timeout_s: Of a request to it.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._last: float | None = None
        self._request: asyncio.Task[float | None] | None = None

    def rose(self, *, suspect: bool) -> bool:
        """Whether the engine has computed something since the last look; does not wait.

        Args:
            suspect: Whether to look at all; a suspicion begins with a first look, which tells nothing by itself.
        """
        found = False
        if self._request is not None and self._request.done():
            before, self._last, self._request = self._last, self._request.result(), None
            found = before is not None and self._last is not None and self._last > before
        if not suspect:
            self._last = None
        elif self._request is None:
            self._request = asyncio.create_task(computed(self._url, timeout_s=self._timeout_s))
        return found and suspect

    async def close(self) -> None:
        """Give up a look that is under way."""
        if self._request is not None:
            self._request.cancel()
            await asyncio.gather(self._request, return_exceptions=True)
