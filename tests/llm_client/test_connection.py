"""The key, the address and the proxy of an endpoint, as environments have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError

from llm_client.connection import authorization, proxy_for, tell_missing_key
from task.endpoint import BaseUrl
from task.errors import InputError
from task.serving_settings import Consult
from task.settings import OpenAI
from tests.llm_client.fake_api import FakeApi
from tests.teacher.test_label import llm_task, queries, run

CLOSED = "http://127.0.0.1:9"  # nothing listens there
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def statuses(url: str, folder: Path) -> list[str]:
    return [r.status for r in run(llm_task(url, max_attempts=1), queries(2), folder).rows]


# -- the key -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sk-made-up\n", "sk-made-up\r\n", " sk-made-up "])
def test_a_line_break_around_the_key_is_left_out(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with FakeApi() as api:
        assert statuses(api.url, tmp_path) == ["accepted"] * 2
        assert {h["Authorization"] for h in api.headers} == {"Bearer sk-made-up"}


@pytest.mark.parametrize("key", ["sk-made\nup", "“sk-made-up”", "sk-made\tup", "sk-made\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with FakeApi() as api:
        with pytest.raises(InputError, match="OPENAI_API_KEY: the key in this environment variable") as raised:
            statuses(api.url, tmp_path)
        assert "sk-made" not in str(raised.value)
        assert not api.bodies


def test_without_a_key_no_header_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    assert authorization("OPENAI_API_KEY") == {}


@pytest.mark.parametrize(("settings", "told"), [
    (OpenAI(), True), (OpenAI(base_url="http://127.0.0.1:8000/v1"), False),  # a local server needs no key
    (OpenAI(base_url="http://127.0.0.1:8000/v1", api_key_env="HW_KEY"), True), (Consult(api_key_env="HW_KEY"), True),
])
@pytest.mark.parametrize("key", [None, "sk-made-up"])
def test_a_missing_key_is_told_where_one_is_expected(
    settings: OpenAI | Consult, told: bool, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "HW_KEY"):
        monkeypatch.delenv(name, raising=False)
        if key is not None:
            monkeypatch.setenv(name, key)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        tell_missing_key(settings)
    assert [settings.api_key_env in str(w.message) for w in found] == [True] * (told and key is None)


# -- the address -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [
    "127.0.0.1:1234/v1", "localhost:1234/v1", "api.openai.com/v1", "", "http://", "https:///v1", "ftp://a/v1",
    "http://a/v1 ", "http://a/v1\n", "http://a:x/v1", "http://a/v1?version=2", "http://a/v1#x",
    "http://a/v1/chat/completions", "http://a/v1/chat/completions/",
])
def test_an_address_that_cannot_work_is_refused_when_the_task_is_loaded(url: str) -> None:
    for settings in (OpenAI, Consult):
        with pytest.raises(ValidationError, match="base_url"):
            settings(base_url=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1234/v1", "https://api.openai.com/v1/", "http://[::1]:8000/v1"])
def test_an_address_is_kept_as_it_is_written(url: BaseUrl) -> None:
    assert (OpenAI(base_url=url).base_url, Consult(base_url=url).base_url) == (url, url)


# -- the proxy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_requests_go_through_the_proxy_of_the_environment(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeApi() as proxy:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1").replace("//", "//user:secret@"))
        assert statuses("http://llm.invalid/v1", tmp_path) == ["accepted"] * 2
        assert {h["Host"] for h in proxy.headers} == {"llm.invalid"}
        assert {h["Proxy-Authorization"] for h in proxy.headers} == {"Basic dXNlcjpzZWNyZXQ="}


def test_a_batch_goes_through_the_proxy_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = llm_task("http://llm.invalid/v1", batch_poll_s=0.01)
    task = task.model_copy(update={"teacher": task.teacher.model_copy(update={"backend": "openai-batch"})})
    with FakeApi() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        assert [r.status for r in run(task, queries(2), tmp_path).rows] == ["accepted"] * 2


def test_a_host_in_no_proxy_is_asked_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", CLOSED)
    with FakeApi() as api:
        assert statuses(api.url, tmp_path / "proxy") == ["failed"] * 2
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        assert statuses(api.url, tmp_path / "direct") == ["accepted"] * 2


@pytest.mark.parametrize(("url", "no_proxy", "direct"), [
    ("https://api.corp.example/v1", "corp.example", True), ("https://api.corp.example/v1", ".corp.example", True),
    ("https://api.corp.example/v1", "*", True), ("https://api.corp.example/v1", "other.example", False),
    ("https://notcorp.example/v1", "corp.example", False), ("https://llm.corp:8443/v1", "llm.corp:8443", True),
    ("https://llm.corp:8443/v1", "llm.corp:9443", False), ("https://10.1.2.3/v1", "10.0.0.0/8", True),
    ("https://11.1.2.3/v1", "10.0.0.0/8", False), ("https://10.1.2.3:8000/v1", "localhost, 10.1.2.3", True),
    ("https://[fd00::1]:8000/v1", "fd00::/8", True), ("https://api.corp.example/v1", "", False),
])
def test_no_proxy_has_names_ports_and_networks(
    url: str, no_proxy: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.corp:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(url) == (None if direct else "http://proxy.corp:3128")


def test_a_proxy_of_another_kind_is_refused_and_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5h://user:secret@127.0.0.1:1080")
    with pytest.raises(InputError, match="HTTPS_PROXY: a proxy of this kind cannot be used; found 'socks5h'"):
        proxy_for("https://api.openai.com/v1")
    monkeypatch.setenv("NO_PROXY", "api.openai.com")
    assert proxy_for("https://api.openai.com/v1") is None


def test_the_login_of_a_netrc_file_does_not_take_the_place_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `trust_env`, aiohttp 3.14 refuses the request: it has two logins then."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    with FakeApi() as api:
        assert statuses(api.url, tmp_path) == ["accepted"] * 2
        assert {h["Authorization"] for h in api.headers} == {"Bearer sk-made-up"}
