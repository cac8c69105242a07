"""Pages of allowed origins may ask from a browser; others, and by default all, may not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from serving.gateway.admission import Callers
from serving.gateway.api_keys import make_key, read_keys
from task.serving_settings import Serving
from tests.serving.conftest import Open

SHOP = "https://shop.example"
ALLOWED = "access-control-allow-origin"


def preflight(origin: str) -> dict[str, str]:
    return {
        "Origin": origin, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-retry-count",
    }


def test_no_origin_is_allowed_unless_it_is_listed(harness: Open) -> None:
    async def run() -> None:
        for origins in ((), ("https://other.example", "http://localhost:3000")):
            async with harness(cors_origins=origins) as h:
                for found in (
                    await h.client.options("/v1/label", headers=preflight(SHOP)),
                    await h.client.post("/v1/label", json={"query": "oat milk"}, headers={"Origin": SHOP}),
                    await h.client.post("/v1/label", json={"query": "oat milk"}),
                ):
                    assert found.status_code == 200
                    assert not [k for k in found.headers if k.startswith("access-control-allow")]
                    assert (found.headers.get("Vary") == "Origin") == bool(origins)

    asyncio.run(run())


@pytest.mark.parametrize(("origins", "answer"), [((SHOP, "http://localhost:3000"), SHOP), (("*",), "*")])
def test_a_page_of_an_allowed_origin_may_ask_and_reads_errors_too(
    harness: Open, tmp_path: Any, origins: tuple[str, ...], answer: str
) -> None:
    async def run() -> None:
        key = make_key(tmp_path / "keys.json", "web", rate=1_000, burst=1_000, concurrency=20)
        async with harness(cors_origins=origins) as h:
            h.gateway.callers = Callers(read_keys(tmp_path / "keys.json"))
            asked = await h.client.options("/v1/label", headers=preflight(SHOP))  # browsers send no key here
            assert (asked.status_code, asked.headers[ALLOWED], asked.content) == (200, answer, b"")
            assert "POST" in asked.headers["Access-Control-Allow-Methods"]
            assert asked.headers["Access-Control-Allow-Headers"] == preflight(SHOP)["Access-Control-Request-Headers"]
            own = {"Origin": SHOP, "Authorization": f"Bearer {key}"}
            for found, status in (
                (await h.client.post("/v1/label", json={"query": "oat milk"}, headers=own), 200),
                (await h.client.post("/v1/label:batch", json={"queries": ["oat milk", "a"]}, headers=own), 200),
                (await h.client.post("/v1/label", json={"query": "x"}, headers={"Origin": SHOP}), 401),
                (await h.client.post("/v1/label", json={}, headers=own), 422),
                (await h.client.get("/nowhere", headers=own), 404), (await h.client.put("/v1/label", headers=own), 405),
                (await h.client.get("/v1/models", headers=own), 200),
            ):
                assert (found.status_code, found.headers[ALLOWED]) == (status, answer)
                assert "retry-after" in found.headers["Access-Control-Expose-Headers"]
                assert "Access-Control-Allow-Credentials" not in found.headers
                assert found.headers.get("Vary", "*") == ("*" if answer == "*" else "Origin")

    asyncio.run(run())


def test_a_preflight_echoes_only_names_of_headers(harness: Open) -> None:
    async def run() -> None:
        async with harness(cors_origins=("*",)) as h:
            for names in ("x" * 5_000, 'x"y', "x;y", ""):
                sent = preflight(SHOP) | {"Access-Control-Request-Headers": names}
                assert "Access-Control-Allow-Headers" not in (await h.client.options("/v1/label", headers=sent)).headers

    asyncio.run(run())


@pytest.mark.parametrize("origin", [
    "https://shop.example/", "shop.example", "https://*.shop.example", "null", "", "https://Shop.example",
    "https://a@shop.example", "https://a,https://b",
])
def test_what_no_browser_sends_as_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="expected a scheme, a host"):
        Serving(cors_origins=(origin,))
