"""Who may use the console, and from where."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limbeck.console.accounts import Accounts
from limbeck.console.options import Options, check
from task.errors import InputError
from tests.documented import documented
from tests.limbeck.console.consoles import PASSWORD, add_user, console, secret, sign_in
from tests.limbeck.test_cli import in_process


def test_on_loopback_without_users_whoever_is_at_the_machine_is_in(tmp_path: Path) -> None:
    with console(tmp_path) as browser:
        first = browser.get("/runs")
        assert first.status_code == 200
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=lax" in cookie.lower()
        assert "set-cookie" not in browser.get("/runs").headers


def test_with_users_pages_ask_for_a_sign_in_and_lead_back(tmp_path: Path) -> None:
    add_user(tmp_path, "ada", "look")
    with console(tmp_path) as browser:
        asked = browser.get("/audit?before=7")
        assert (asked.status_code, asked.headers["location"]) == (303, "/sign-in?next=%2Faudit%3Fbefore%3D7")
        assert 'value="/audit?before=7"' in browser.get(asked.headers["location"]).text
        done = sign_in(browser, "ada", next="/audit?before=7")
        assert (done.status_code, done.headers["location"]) == (303, "/audit?before=7")
        assert "signed in" in browser.get("/audit").text


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x"])
def test_a_sign_in_leads_nowhere_else(tmp_path: Path, elsewhere: str) -> None:
    add_user(tmp_path, "ada", "look")
    with console(tmp_path) as browser:
        assert sign_in(browser, "ada", next=elsewhere).headers["location"] == "/"


def test_an_unknown_user_and_a_wrong_password_get_the_same_answer_and_many_tries_wait(tmp_path: Path) -> None:
    add_user(tmp_path, "ada", "look")
    with console(tmp_path) as browser:
        wrong, unknown = sign_in(browser, "ada", "wrong password"), sign_in(browser, "eve", "wrong password")
        assert wrong.status_code == unknown.status_code == 403
        assert wrong.text == unknown.text
        for _ in range(9):
            sign_in(browser, "ada", "wrong password")
        assert sign_in(browser, "ada").status_code == 429
        assert browser.get("/runs").status_code == 303


def test_sign_out_ends_the_session_for_every_copy_of_its_cookie(tmp_path: Path) -> None:
    add_user(tmp_path, "ada", "look")
    with console(tmp_path) as browser:
        sign_in(browser, "ada")
        token = browser.cookies["limbeck_session"]
        assert browser.post("/sign-out", data={"csrf": "wrong"}).status_code == 403
        assert browser.post("/sign-out", data={"csrf": secret(browser)}).status_code == 303
        browser.cookies.set("limbeck_session", token)
        assert browser.get("/runs").status_code == 303
        assert token not in (tmp_path / ".console" / "console.sqlite").read_bytes().decode(errors="replace")


def test_a_changed_password_and_a_removed_user_end_sessions(tmp_path: Path) -> None:
    add_user(tmp_path, "ada", "look")
    add_user(tmp_path, "ben", "look")
    with console(tmp_path) as browser:
        sign_in(browser, "ada")
        add_user(tmp_path, "ada", "look")
        assert browser.get("/runs").status_code == 303
        sign_in(browser, "ada")
        accounts = Accounts(tmp_path / ".console")
        assert accounts.remove("ada")
        accounts.close()
        assert browser.get("/runs").status_code == 303


@pytest.mark.parametrize(("headers", "status"), [
    ({"host": "evil.example"}, 421), ({"host": "127.0.0.1:9"}, 200), ({"host": "localhost"}, 200),
    ({"host": "[::1]:8500"}, 200), ({"host": ""}, 421),
])
def test_only_its_own_host_names_are_answered(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    with console(tmp_path) as browser:
        assert browser.get("/runs", headers=headers).status_code == status


@pytest.mark.parametrize("headers", [
    {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
])
def test_a_form_of_another_origin_is_refused_even_with_the_secret(tmp_path: Path, headers: dict[str, str]) -> None:
    with console(tmp_path) as browser:
        form = {"csrf": secret(browser)}
        assert browser.post("/sign-out", data=form, headers=headers).status_code == 403
        assert browser.post("/sign-out", data=form, headers={"origin": "http://127.0.0.1"}).status_code == 303


def test_every_page_lets_nothing_load_but_the_consoles_own_files(tmp_path: Path) -> None:
    with console(tmp_path) as browser:
        for path in ("/runs", "/audit", "/nowhere", "/static/console.css"):
            headers = browser.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
        assert browser.get("/nowhere").status_code == 404
        assert browser.request("DELETE", "/runs").status_code == 405
        assert browser.post("/runs", content=iter([b"x"])).status_code == 411
        assert browser.post("/runs", headers={"content-length": str(1 << 40)}).status_code == 413


def test_a_proxy_names_the_user_and_nobody_else_can(tmp_path: Path) -> None:
    add_user(tmp_path, "ada", "look")
    named = {"X-Remote-User": "ada"}
    with console(tmp_path, behind_proxy=True, user_header="X-Remote-User") as browser:
        page = browser.get("/runs", headers=named)
        assert page.status_code == 200
        assert "Secure" in page.headers["set-cookie"]
        assert "max-age" in page.headers["strict-transport-security"]
        assert browser.get("/runs").status_code == 403
        assert browser.get("/runs", headers={"X-Remote-User": "eve"}).status_code == 403
    with console(tmp_path, behind_proxy=True, user_header="X-Remote-User", proxies=("10.0.0.5",)) as browser:
        assert browser.get("/runs", headers=named).status_code == 403
    with console(tmp_path) as browser:  # not switched on
        assert browser.get("/runs", headers=named).status_code == 303


SAFE: dict[str, Any] = {"host": "0.0.0.0", "certificate": Path(__file__), "key": Path(__file__)}


@pytest.mark.parametrize(("options", "problem"), [
    ({"host": "0.0.0.0"}, "off loopback the console needs TLS"), (SAFE, "off loopback the console needs users"),
    ({"behind_proxy": True}, "off loopback the console needs users"), ({"certificate": Path("x")}, "belong together"),
    ({"user_header": "X-User"}, "only behind a proxy"), ({"services": ("127.0.0.1:80",)}, "not an address"),
    ({"behind_proxy": True, "proxies": ("proxy",)}, "not an address"), ({"runs": Path("nowhere")}, "no such folder"),
    ({"certificate": Path("no.pem"), "key": Path("no.pem")}, "no such file"),
])
def test_it_does_not_start_open_to_strangers(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    accounts = Accounts(tmp_path)
    with pytest.raises(InputError, match=problem):
        check(Options(**({"runs": tmp_path, "state": tmp_path} | options)), accounts)
    accounts.put("ada", PASSWORD, ["look"])
    if "users" in problem:
        check(Options(**({"runs": tmp_path, "state": tmp_path} | options)), accounts)
    accounts.close()


def test_users_are_added_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    def command(*words: str, password: str = PASSWORD) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        return in_process("console-user", *words, "--state", tmp_path)

    assert command("ada", "--role", "look,label").returncode == 0
    assert command().stdout == "ada\tlabel, look\n"
    accounts = Accounts(tmp_path)
    assert accounts.is_right("ada", PASSWORD)
    assert PASSWORD not in accounts.path.read_bytes().decode(errors="replace")
    assert (accounts.path.stat().st_mode & 0o077) == 0
    for words, password, problem in (
        (("ben", "--role", "boss"), PASSWORD, "one of: look, label, release"), (("ben",), PASSWORD, "--role"),
        (("ben", "--role", "look"), "short", "at least 10 characters"), (("eve", "--remove"), "", "no such user"),
        (("a\nb", "--role", "look"), PASSWORD, "printable"),
    ):
        done = command(*words, password=password)
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
    assert command("proxied", "--role", "look", "--no-password").returncode == 0
    assert not accounts.is_right("proxied", "")
    assert command("ada", "--remove").returncode == 0
    assert accounts.names() == ["proxied"]
    assert [e.what for e in accounts.audit()] == ["user removed", "user added or changed", "user added or changed"]
    accounts.close()


def test_without_run_folders_it_says_where_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (documented("limbeck console"), documented("limbeck console --people 2")):
        done = in_process(*words)
        assert (done.returncode, "Run `limbeck label TASK` first" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_the_console_imports_nothing_heavy() -> None:
    code = (
        "import sys, limbeck.console.server, limbeck.console.app\n"
        "print([m for m in ('torch', 'transformers', 'ray', 'vllm', 'peft', 'sklearn', 'matplotlib', 'openvino') "
        "if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
