"""Clients as they come speak to the gateway over a real socket: Java, Node, curl, Python's, and HTTP/1.0.

Java and Node are those of Debian (`default-jdk-headless`, `nodejs`); the test of a client that is not installed is
skipped.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.conftest import Harness, Open, listening

CLIENTS = Path(__file__).parent / "clients"
QUERY = {"query": "crème MILK"}


def ask(harness: Open, client: Callable[[str, Harness], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a client on the URL of a gateway."""

    async def run() -> None:
        async with harness(**settings) as h, listening(h.gateway) as url:
            await client(url, h)

    asyncio.run(run())


async def output_of(*command: str | Path, given: bytes = b"") -> str:
    """What a program prints; it must end with code 0."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, problems = await asyncio.wait_for(process.communicate(given), 120)
    assert process.returncode == 0, problems.decode() + out.decode()
    return out.decode()


async def answers_of(*command: str | Path) -> dict[str, str]:
    """Request → answer, of a program that prints one of each on a line."""
    return dict(line.split(" ", 1) for line in (await output_of(*command)).splitlines())


def labelled(text: str) -> None:
    found = json.loads(text)
    assert (found["query"], [x["text"] for x in found["labels"]]) == ("crème MILK", ["MILK"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK here: apt-get install default-jdk-headless")
def test_the_jdks_http_client(harness: Open) -> None:
    async def client(url: str, _: Harness) -> None:
        said = await answers_of("java", CLIENTS / "Client.java", url)
        for name in ("sized", "chunked", "gzip", "expect", "http/1.1"):
            status, version, body = said[name].split(" ", 2)
            assert (status, version) == ("200", "HTTP_1_1"), name
            labelled(body)
        assert said["models"].startswith("200 ")
        assert said["head"].split()[:1] == ["200"]
        assert said["wrong"].startswith("422 HTTP_1_1 {\"error\":")
        assert "query: Field required" in said["wrong"]
        assert (said["batch"], said["parallel"]) == ("200 3", "[200]")

    ask(harness, client)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="no Node here: apt-get install nodejs")
def test_nodes_fetch(harness: Open) -> None:
    async def client(url: str, _: Harness) -> None:
        said = await answers_of("node", CLIENTS / "client.mjs", url)
        for name in ("sized", "chunked", "gzip", "untyped"):
            status, body = said[name].split(" ", 1)
            assert status == "200", name
            labelled(body)
        assert json.loads(said["models"].removeprefix("200 "))["id"] == "toy"
        assert said["head"].strip() == "200"
        assert said["wrong"].startswith("422 ")
        assert (said["batch"], said["stream"], said["parallel"]) == ("200 3", "[DONE] 1,1,0 true", "200")

    ask(harness, client)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here: apt-get install curl")
def test_curl(harness: Open, tmp_path: Path) -> None:
    body, packed = tmp_path / "body.json", tmp_path / "body.gz"
    body.write_text(json.dumps(QUERY, ensure_ascii=False), encoding="utf-8")
    packed.write_bytes(gzip.compress(body.read_bytes()))
    long = tmp_path / "long.json"
    long.write_text(json.dumps({"queries": ["oat milk"] * 20_000}))

    async def client(url: str, _: Harness) -> None:
        curl = ("curl", "--silent", "--show-error", "--max-time", "60")
        post = (*curl, f"{url}/v1/label", "--data-binary", f"@{body}")
        for more in (
            (), ("--http2",), ("--http1.0",), ("--compressed",), ("-H", "Content-Type: application/json"),
            ("-H", "Content-Type:"), ("-H", "Expect: 100-continue"), ("-H", "Transfer-Encoding: chunked"),
            ("--http2", "-H", "Transfer-Encoding: chunked"), ("--http2", "-H", "Expect: 100-continue"),
            ("-H", "Connection: close"),
        ):
            labelled(await output_of(*post, *more))
        gzipped = (*curl, f"{url}/v1/label", "-H", "Content-Encoding: gzip", "--data-binary", f"@{packed}")
        labelled(await output_of(*gzipped))
        labelled(await output_of(*gzipped, "--http2"))
        labelled(await output_of(*curl, "-X", "POST", "-T", "-", f"{url}/v1/label", given=body.read_bytes()))
        for version in ("--http1.0", "--http1.1", "--http2"):
            answer = await output_of(*curl, version, f"{url}/v1/label:batch", "--data-binary", f"@{long}")
            assert "20000 queries; at most 256" in answer  # 200 KB, for which curl waits for `100 Continue`
        head = await output_of(*curl, "--head", f"{url}/v1/models")
        assert head.startswith("HTTP/1.1 200 OK")
        assert "allow: POST, OPTIONS" in await output_of(*curl, "-i", "-X", "OPTIONS", f"{url}/v1/label")
        assert "no such path" in await output_of(*post, "--url", f"{url}/v1/label/")
        brotli = ("-i", "-H", "Content-Encoding: br", "-d", "x")
        assert "accept-encoding: gzip, deflate" in await output_of(*curl, *brotli, f"{url}/v1/label")
        twice = await output_of(*post, "--next", *post[1:], "--verbose")
        assert twice.count('"status":"ok"') == 2

    ask(harness, client)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["urllib", "httpx", "requests", "openai"])
def test_pythons_clients(harness: Open, name: str) -> None:
    if name in ("requests", "openai"):
        pytest.importorskip(name)
    asked = {"urllib": _urllib, "httpx": _httpx, "requests": _requests, "openai": _openai}[name]

    async def client(url: str, h: Harness) -> None:
        await asyncio.to_thread(asked, url)
        assert h.engine.requests

    ask(harness, client)


def _urllib(url: str) -> None:
    for body in (json.dumps(QUERY).encode(), iter([b'{"query": "cr\xc3\xa8', b'me MILK"}'])):  # the second is chunked
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/label", body)) as response:
            labelled(response.read().decode())


def _httpx(url: str) -> None:
    with httpx.Client() as client:
        labelled(client.post(f"{url}/v1/label", json=QUERY).text)
        packed = gzip.compress(json.dumps(QUERY).encode())
        labelled(client.post(f"{url}/v1/label", content=packed, headers={"Content-Encoding": "gzip"}).text)
        with client.stream("POST", f"{url}/v1/label:batch", json={"queries": ["a", "oat milk"]}) as response:
            assert sorted(json.loads(x)["index"] for x in response.iter_lines()) == [0, 1]


def _requests(url: str) -> None:
    import requests

    with requests.Session() as session:
        for _ in range(3):  # on one connection
            labelled(session.post(f"{url}/v1/label", json=QUERY, timeout=30).text)
        parts = iter([b'{"query": ', b'"cr\xc3\xa8me MILK"}'])
        labelled(session.post(f"{url}/v1/label", data=parts, timeout=30).text)


def _openai(url: str) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert client.models.retrieve("student").id == "student"
    for model in [m.id for m in client.models.list()]:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "rice MILK"}])
        assert "MILK" in (answer.choices[0].message.content or "")
    stream = list(client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": "soy MILK"}], stream=True,
        stream_options={"include_usage": True},
    ))
    assert [len(x.choices) for x in stream] == [1, 1, 0]
    assert stream[-1].usage is not None
    assert stream[-1].usage.prompt_tokens > 0
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.models.retrieve("gpt-4")


def test_http_1_0_gets_no_chunks(harness: Open) -> None:
    """Of old proxies, load testers and health checks; such a client would take the chunks' sizes for content."""

    async def client(url: str, _: Harness) -> None:
        bodies = {
            "/v1/label:batch": {"queries": ["rice MILK", "oat milk", "tea"]},
            "/v1/chat/completions": {
                "model": "toy", "stream": True, "messages": [{"role": "user", "content": "rice MILK"}],
            },
        }
        for path, body in bodies.items():
            sent = json.dumps(body).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"POST %s HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(sent), sent))
            head, _, content = (await asyncio.wait_for(reader.read(), 10.0)).partition(b"\r\n\r\n")
            assert b" 200 OK" in head
            assert b"transfer-encoding" not in head.lower()
            assert b"content-length: %d" % len(content) in head.lower()
            lines = [x.removeprefix("data: ") for x in content.decode().split("\n") if x]
            assert all(json.loads(x) for x in lines if x != "[DONE]")
            writer.close()

    ask(harness, client)


def test_long_urls_and_slashes_at_the_end_are_answered(harness: Open) -> None:
    async def client(url: str, _: Harness) -> None:
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/healthz?x={'y' * 30_000}")).status_code == 200
            assert (await http.get(f"{url}/{'y' * 30_000}")).status_code == 404
            for path in ("/v1/label/", "/v1/v1/label", "/v1//label"):
                found = await http.post(url + path, json=QUERY)
                assert (found.status_code, "/v1/label, " in found.json()["error"]["message"]) == (404, True)

    ask(harness, client)
