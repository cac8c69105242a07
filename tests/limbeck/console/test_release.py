"""Releases and rollbacks: said before, confirmed, bound to what was seen, and in the audit log."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.console.accounts import Accounts
from serving.release.bundle import Bundle, build, stamp
from serving.release.pointer import read_pointer, release
from task.codec import Codec
from task.files import write_json
from task.serving_settings import Change
from task.spec import Task
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.limbeck.console.consoles import add_user, console, secret, sign_in

GOOD = {"rule": "min_f1", "ok": True, "text": "F1 95.0 % (gate min_f1: at least 90 %)"}
BAD = {"rule": "min_f1", "ok": False, "text": "F1 <b>5.0 %</b> (gate min_f1: at least 90 %)"}

Made = Callable[..., Bundle]


@pytest.fixture
def made(tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer) -> Made:
    """Puts a bundle into the run folder `runs/NAME`; each name has another one."""

    def make(name: str, *checks: dict[str, Any], task: Task | None = None) -> Bundle:
        of = task or make_task(description=name)
        folder = tmp_path / "runs" / name / "bundle" / "bundle"
        folder.parent.mkdir(parents=True)
        write_json(tmp_path / "runs" / name / "task.json", of.model_dump(mode="json"))
        found = build(folder, of, Codec.compile(of, [], tokenizer, "read"), tiny_llama, [], {})
        if checks:
            stamp(folder, list(checks))
        return found

    return make


def form(page: str) -> dict[str, str]:
    """The hidden fields of the form that confirms."""
    part = page[page.index('class="confirm"') :]
    return {k: html.unescape(v) for k, v in re.findall(r'name="(\w+)" value="([^"]*)"', part)}


def audit(runs: Path) -> list[tuple[str, str, Any, Any]]:
    """Who, what, before and after, oldest first, without sign-ins."""
    accounts = Accounts(runs / ".console")
    found = [(e.who, e.what, e.before, e.after) for e in reversed(accounts.audit()) if "signed" not in e.what]
    accounts.close()
    return found


def test_a_release_says_what_will_happen_then_happens_and_is_in_the_audit_log(tmp_path: Path, made: Made) -> None:
    runs, pointer = tmp_path / "runs", tmp_path / "live.json"
    one, two = made("one", GOOD), made("two", GOOD)
    add_user(runs, "ada", "look", "release")
    with console(runs, pointer=pointer) as browser:
        sign_in(browser, "ada")
        assert "<option>one</option><option>two</option>" in browser.get("/service/release").text
        page = browser.get("/service/release?run=one").text
        assert "nothing: " in page
        assert "F1 95.0 %" in page
        assert not pointer.exists()  # nothing happens by looking
        done = browser.post("/service/release", data=form(page))
        assert (done.status_code, done.headers["location"]) == (303, "/service")
        assert read_pointer(pointer).current.id == one.id
        page = browser.get("/service/release?run=two&canary=0.05&canary_s=60&watch_s=30").text
        for said in (
            f"names {two.id} in place of {one.id}", f"Canary: for 60 s {two.id} answers 5 % of the queries",
            "For 30 s more it is watched", "failures by more than 1 point;", f"Release {two.id} in place of {one.id}",
        ):
            assert said in page, said
        assert browser.post("/service/release", data=form(page)).status_code == 303
        found = read_pointer(pointer)
        assert found.previous is not None
        assert (found.current.id, found.previous.id) == (two.id, one.id)
        assert (found.change.canary, found.change.canary_s, found.change.watch_s) == (0.05, 60.0, 30.0)
        assert f"<b>{two.id}</b> since" in browser.get("/service").text
        assert "It is the released bundle already" in browser.get("/service/release?run=two").text
    first, second, third, fourth = audit(runs)
    assert (first[0], first[1], first[2]) == ("ada", "release begun", {"current": "", "previous": ""})
    assert first[3]["bundle"] == one.id
    assert second[1:] == ("release done", {"current": "", "previous": ""}, {"current": one.id, "previous": ""})
    assert (third[1], third[2]["current"], third[3]["change"]["canary"]) == ("release begun", one.id, 0.05)
    assert (fourth[1], fourth[3]) == ("release done", {"current": two.id, "previous": one.id})


def test_a_bundle_that_did_not_pass_its_gate_is_not_released_however_it_is_asked(tmp_path: Path, made: Made) -> None:
    runs, pointer = tmp_path / "runs", tmp_path / "live.json"
    made("good", GOOD)
    bundles = {"failed": made("failed", BAD), "unjudged": made("unjudged")}
    with console(runs, pointer=pointer) as browser:
        fields = form(browser.get("/service/release?run=good").text)
        for name, why in (("failed", "F1 &lt;b&gt;5.0 %"), ("unjudged", "no gate has judged it")):
            page = browser.get(f"/service/release?run={name}").text
            assert why in page
            assert "This bundle is not released here" in page
            assert 'class="confirm"' not in page
            said = browser.post("/service/release", data=fields | {
                "run": name, "bundle": bundles[name].id, "ungated": "yes",
            })
            assert said.status_code == 400
            assert "the bundle is not released" in said.text
    assert not pointer.exists()
    assert [what for _, what, _, _ in audit(runs)] == ["release begun", "release not done"] * 2


def test_of_two_people_the_second_sees_that_the_pointer_has_changed(tmp_path: Path, made: Made) -> None:
    runs, pointer = tmp_path / "runs", tmp_path / "live.json"
    one, two, three = made("one", GOOD), made("two", GOOD), made("three", GOOD)
    release(pointer, bundle=one.folder, change=Change())
    with console(runs, pointer=pointer) as browser:
        first = form(browser.get("/service/release?run=two").text)
        second = form(browser.get("/service/release?run=three").text)
        assert browser.post("/service/release", data=first).status_code == 303
        said = browser.post("/service/release", data=second)
        assert said.status_code == 400
        assert "somebody has released or rolled back meanwhile" in said.text
        assert read_pointer(pointer).current.id == two.id
        back = form(browser.get("/service/rollback").text)
        release(pointer, bundle=three.folder, change=Change())
        assert browser.post("/service/rollback", data=back).status_code == 400
        assert read_pointer(pointer).current.id == three.id
    assert audit(runs)[-1][1] == "rollback not done"
    assert "meanwhile" in audit(runs)[-1][3]["why"]


def test_a_run_that_was_bundled_again_meanwhile_is_not_released_unseen(tmp_path: Path, made: Made) -> None:
    runs, pointer = tmp_path / "runs", tmp_path / "live.json"
    made("one", GOOD)
    other = made("other", GOOD)
    with console(runs, pointer=pointer) as browser:
        fields = form(browser.get("/service/release?run=one").text)
        shutil.rmtree(runs / "one" / "bundle" / "bundle")
        shutil.copytree(other.folder, runs / "one" / "bundle" / "bundle")
        said = browser.post("/service/release", data=fields)
    assert (said.status_code, "there is another bundle here by now" in said.text) == (400, True)
    assert not pointer.exists()


def test_a_rollback_says_what_will_happen_and_happens(tmp_path: Path, made: Made) -> None:
    runs, pointer = tmp_path / "runs", tmp_path / "live.json"
    one, two = made("one", GOOD), made("two", GOOD)
    release(pointer, bundle=one.folder, change=Change())
    with console(runs, pointer=pointer) as browser:
        assert "Nothing was released before" in browser.get("/service/rollback").text
        release(pointer, bundle=two.folder, change=Change())
        page = browser.get("/service/rollback").text
        assert f"names {one.id} in place of {two.id}" in page
        assert "without shadow or canary" in page
        assert browser.post("/service/rollback", data=form(page)).status_code == 303
    assert read_pointer(pointer).current.id == one.id
    begun, done = audit(runs)
    assert (begun[1], begun[2]) == ("rollback begun", {"current": two.id, "previous": one.id})
    assert (done[1], done[3]) == ("rollback done", {"current": one.id, "previous": two.id})


def test_who_may_not_release_sees_what_would_happen_and_cannot_do_it(tmp_path: Path, made: Made) -> None:
    runs, pointer = tmp_path / "runs", tmp_path / "live.json"
    one, two = made("one", GOOD), made("two", GOOD)
    release(pointer, bundle=one.folder, change=Change())
    release(pointer, bundle=two.folder, change=Change())
    add_user(runs, "eve", "look", "label")
    with console(runs, pointer=pointer) as browser:
        sign_in(browser, "eve")
        csrf = secret(browser)
        for path, fields in (
            ("/service/release?run=one", {"run": "one", "bundle": one.id}), ("/service/rollback", {}),
        ):
            page = browser.get(path).text
            assert "needs the role <code>release</code>" in page
            assert 'class="confirm"' not in page
            said = browser.post(path.partition("?")[0], data=fields | {
                "csrf": csrf, "current": two.id, "previous": one.id,
                **dict.fromkeys(("shadow", "shadow_s", "canary", "canary_s", "watch_s", "keep_s"), "0"),
            })
            assert said.status_code == 403
    assert read_pointer(pointer).current.id == two.id
    assert audit(runs) == []


@pytest.mark.parametrize(("query", "said"), [
    ("canary=many", "Canary, share of queries: not a number; found &#39;many&#39;"),
    ("canary=7", "less than or equal to 1"),
    ("watch_s=9", "`watch_s` needs `canary` and `canary_s`"), ("shadow=nan", "serving.change"),
])
def test_shares_that_are_none_are_refused_before_anything_happens(
    tmp_path: Path, made: Made, query: str, said: str
) -> None:
    made("one", GOOD)
    with console(tmp_path / "runs", pointer=tmp_path / "live.json") as browser:
        page = browser.get(f"/service/release?run=one&{query}")
    assert page.status_code == 400
    assert said in page.text


def test_without_a_pointer_or_a_bundle_there_is_nothing_to_release(tmp_path: Path, made: Made) -> None:
    runs = tmp_path / "runs"
    made("one", GOOD)
    (runs / "bare").mkdir()
    shutil.copy(runs / "one" / "task.json", runs / "bare")
    with console(runs) as browser:
        said = browser.get("/service/release")
        assert (said.status_code, "started without --pointer" in said.text) == (409, True)
    with console(runs, pointer=tmp_path / "live.json") as browser:
        assert browser.get("/service/release?run=bare").status_code == 404
        assert browser.get("/service/release?run=..").status_code == 404
        (runs / "one" / "bundle" / "bundle" / "manifest.json").write_text("{}")
        assert browser.get("/service/release?run=one").status_code == 400
        assert browser.get("/service/rollback").status_code == 400
