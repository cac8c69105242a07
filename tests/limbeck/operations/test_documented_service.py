"""Commands of docs/serving.md and docs/your-own-data.md, word for word: gate, release, serve, purge, roll back, ask."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.loopback import free_port
from serving.client import served
from serving.release.bundle import build, open_bundle, stamp
from task.captures import read_captures
from task.feedback import read_feedback
from task.files import write_jsonl
from task.labels import Example, Label
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.documented import documented
from tests.limbeck.test_cli import limbeck
from tests.serving.bundles import HITS, MISSES, made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def desk(tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two bundles, a log, and gold that is what the student says."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("queries.jsonl"), ({"query": q} for q in (*HITS, *MISSES)))
    write_jsonl(Path("asked.jsonl"), ({"query": q} for q in MISSES))
    bundle = made(Path("made"), tiny_llama, tokenizer, "milk", openvino=True)
    succeeds("predict", bundle.folder, "--in", "asked.jsonl", "--out", "gold.jsonl", "--no-cache")
    said = [
        Example(row["query"], tuple(map(Label.from_json, row["labels"])))
        for row in map(json.loads, Path("gold.jsonl").read_text().splitlines())
    ]
    for folder, head in ((Path("runs", "market", "bundle"), HITS), (Path("new"), HITS[:10])):
        build(
            folder / "bundle", bundle.task, bundle.codec, bundle.model,
            [Example(q, (Label("product", "milk", 4, 8),)) for q in head], {}, reference=said, openvino=bundle.openvino,
        )
    return tmp_path


def succeeds(*arguments: str | Path) -> str:
    done = limbeck(*arguments)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def status(admin: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{admin}/status", timeout=10) as response:
        return dict(json.load(response))


def until(admin: str, holds: Callable[[dict[str, Any]], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds(found := status(admin)):
        assert time.monotonic() < end, json.dumps(found, indent=1)
        time.sleep(0.1)


def source_of(url: str, query: str, **more: str) -> str:
    body = json.dumps({"query": query, **more}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/label", body), timeout=60) as response:
        return str(json.load(response)["source"])


def say(url: str, query: str, **feedback: str) -> None:
    body = json.dumps({"query": query, **feedback}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/feedback", body), timeout=60) as response:
        assert json.load(response)["kept"] is True


def test_a_bundle_is_gated_released_served_and_rolled_back(desk: Path) -> None:
    first, new = Path("runs", "market", "bundle", "bundle"), Path("new", "bundle")
    release = documented("limbeck release runs/market/bundle/bundle live.json")
    ungated = limbeck(*release)
    assert (ungated.returncode, "no gate has judged it" in ungated.stderr) == (2, True)
    more = ("--teacher", "gold.jsonl", "--log", "queries.jsonl", "--pairs", "20", "--set", "gates.max_slower=8.0")
    gate = documented(
        "limbeck gate BUNDLE --gold FILE [--released POINTER] [--junit XML]",
        BUNDLE=first, FILE="gold.jsonl", POINTER="live.json", XML="gate.xml",
    )
    overridden = "1 rule overridden: gates.max_slower=8"
    assert f"passed, with {overridden}" in succeeds(*gate, *more)
    assert "<testsuite" in Path("gate.xml").read_text()
    succeeds(*release)
    succeeds(*documented("limbeck verify BUNDLE", BUNDLE=first))
    assert open_bundle(first).id in succeeds("verify", "live.json")

    old = desk / "state" / "captures" / "2020-01-01.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text("{}\n")
    _, source, *workers = documented("limbeck serve live.json --workers 2")
    port = free_port()
    admin = f"http://127.0.0.1:{port}"
    with served(Path(source), state=desk / "state", options=(*workers, "--admin-port", str(port))) as url:
        assert open_bundle(first).id in succeeds(*documented("limbeck status"), "--admin", admin)
        assert status(admin)["tasks"]["toy"]["active"]["gate"] == "passed, with gates.max_slower=8"
        assert any(n["text"].endswith(f"it passed its gate with {overridden}") for n in status(admin)["news"])
        bench = documented("limbeck bench URL --queries FILE", URL=url, FILE="queries.jsonl")
        succeeds(*bench, "--rate", "40", "--seconds", "1", "--repeats", "1", "--out", "bench")
        assert Path("bench", "bench.html").exists()

        assert source_of(url, "oat milk 1") == "cache"
        succeeds(*documented('limbeck purge --query "oat milk"'), "--admin", admin)
        succeeds(*documented('limbeck purge --label "brand=acme"'), "--admin", admin)
        assert source_of(url, "oat milk 1") == "cache"
        slip = limbeck("purge", "--label", "brnd=acme", "--admin", admin)
        assert (slip.returncode, "no task that is served has the role 'brnd'" in slip.stderr) == (2, True)
        assert "--admin" not in slip.stderr
        succeeds(*documented("limbeck purge --older-than 86400"), "--admin", admin)
        succeeds("purge", "--label", "product=milk", "--admin", admin)
        assert source_of(url, "oat milk 1") == "student"
        succeeds(*documented("limbeck purge --nothing"), "--admin", admin)
        assert source_of(url, "oat milk 1") == "cache"
        say(url, "oat milk 1", verdict="right")
        say(url, "oat milk 2", verdict="wrong")
        assert "1 state/feedback" in succeeds("forget", "--query", "OAT milk 1", "--state", "state")
        assert source_of(url, "oat milk 2") == "cache"
        assert source_of(url, "oat milk 1") == "student"

        succeeds(*documented("limbeck gate NEW --gold gold.jsonl --released live.json", NEW=new), *more)
        succeeds(*documented(
            "limbeck release NEW live.json --shadow 0.2 --shadow-s 300 --canary 0.05 --canary-s 600", NEW=new
        ))
        until(admin, lambda s: any("shadow of 20% for 300 s" in n["text"] for n in s["news"]))
        succeeds(*documented("limbeck rollback live.json"))
        until(admin, lambda s: any("the pointer points to another bundle now" in n["text"] for n in s["news"]))
        assert status(admin)["tasks"]["toy"]["active"]["bundle"] == open_bundle(first).id
    assert not old.exists()
    # Two workers have written their last windows, without the query that was asked before it was forgotten.
    captured = list(read_captures(desk / "state" / "captures"))
    assert {c.bundle for c in captured} <= {open_bundle(first).id, open_bundle(new).id}
    assert "oat milk 2" in {c.query for c in captured}
    assert sum(c.weight for c in captured) >= 40
    assert "oat milk 1" not in {c.query for c in captured if c.source == "cache"}
    assert [f.query for f in read_feedback(desk / "state" / "feedback")] == ["oat milk 2"]


def test_a_student_is_asked_as_the_page_about_own_data_says(desk: Path) -> None:
    Path("runs", "my-data").symlink_to("market")
    Path("my-data").mkdir()
    Path("my-data", "queries.csv").write_text("query,count\n" + "".join(f"{q},1\n" for q in (HITS[0], MISSES[0])))
    said = succeeds(*documented(
        "limbeck predict runs/my-data/bundle/bundle --in my-data/queries.csv --out predictions.jsonl"
    ))
    assert "2 rows in predictions.jsonl" in said
    rows = map(json.loads, Path("predictions.jsonl").read_text().splitlines())
    assert [row["query"] for row in rows] == [HITS[0], MISSES[0]]
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    _, source = documented("limbeck serve runs/my-data/bundle/bundle")
    url, *body = documented("""curl http://127.0.0.1:8080/v1/label -d '{"query": "oat milk 1 l"}'""")
    with served(Path(source), state=desk / "state") as here:
        done = subprocess.run(
            [curl, url.replace("http://127.0.0.1:8080", here), *body], capture_output=True, text=True, check=True
        )
    answer = json.loads(done.stdout)
    assert (answer["query"], answer["source"]) == ("oat milk 1 l", "student")
    assert "is served without having passed its gate: no gate has judged it" in (desk / "state/serve.log").read_text()


def test_a_folder_of_pointers_is_served(
    tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = made(tmp_path / "made", tiny_llama, tokenizer, "milk", openvino=True)
    for name in ("brands", "intents"):
        task = make_task(name=name, serving=bundle.task.serving.model_dump())
        folder = tmp_path / "runs" / name / "bundle"
        build(folder / "bundle", task, bundle.codec, bundle.model, [], {}, openvino=bundle.openvino)
        stamp(folder / "bundle", [])
    succeeds(*documented("limbeck release runs/brands/bundle/bundle tasks/brands.json"))
    succeeds(*documented("limbeck release runs/intents/bundle/bundle tasks/intents.json"))
    _, source = documented("limbeck serve tasks/")
    with served(Path(source), state=tmp_path / "state") as url:
        assert {source_of(url, "oat milk", task=name) for name in ("brands", "intents")} == {"student"}
