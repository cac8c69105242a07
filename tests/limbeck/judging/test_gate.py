"""The gate on a student that writes nonsense: a real gateway process in front of an engine that misbehaves."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from engine.process_guard import die_with_parent
from eval.bench import Settings, bench
from eval.endpoint import Target
from eval.gate import Agreement, Check, judge, passed
from eval.prediction_files import prediction_row
from eval.quality import quality
from eval.score import score_files
from limbeck.judging.gate_evidence import agreement_on, evidence_of, student_confidence
from limbeck.judging.served import Served, ask
from serving.release.bundle import Bundle, build
from serving.supervisor.state import DesiredRoute, DesiredState, StateFolder
from task.codec import Codec
from task.files import read_json, write_json, write_jsonl
from task.labels import Example, Label
from task.progress import quiet
from task.settings import Gates
from task.tokenizer import FastTokenizer
from tests.conftest import make_task
from tests.engine.stand_in import StandIn, engine

GOLD = [Example(f"rice {word}", (Label("product", word, 5, 5 + len(word)),)) for word in ("MILK", "OATS", "CREAM")]
BROKEN = {
    "unreadable": {"text": "I cannot help with that"},
    "truncated": {"text": '[{"role":"product","te', "finish_reason": "length"},
    "unknown_value": {"text": '[{"role":"aisle","text":"moon"}]'},
    "rule": {"text": '[{"role":"brand","text":"ri"},{"role":"brand","text":"ce"}]'},
}


@contextmanager
def gateway(bundle: Bundle, engine_url: str, state: StateFolder) -> Iterator[str]:
    """A gateway worker, started as the supervisor starts it, that asks `engine_url`; its URL."""
    state.metrics.mkdir(parents=True)
    state.write_desired(DesiredState(generation=1, settings=bundle.task.serving, routes=(DesiredRoute(
        folder=bundle.folder, engine=engine_url, role="active", checked=True, settings=bundle.task.serving,
    ),)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.supervisor.worker", str(state.path), "0", str(listener.fileno())],
            pass_fds=[listener.fileno()], preexec_fn=die_with_parent,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(state.metrics)},
        )
        try:
            for _ in range(600):
                if state.read_report(0) is not None:
                    break
                time.sleep(0.05)
            yield "http://127.0.0.1:{1}".format(*listener.getsockname())
        finally:
            process.terminate()
            process.wait(15)


@asynccontextmanager
async def serving(
    form: str, tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer
) -> AsyncIterator[tuple[StandIn, Bundle, str]]:
    task = make_task(eval={"resamples": 50})
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    if form == "read":  # no engine loads it: that it says to be a classifier is enough for the gateway
        config = read_json(model / "config.json")
        write_json(model / "config.json", {**config, "architectures": ["LlamaForTokenClassification"]})
    bundle = build(tmp_path / "bundle", task, Codec.compile(task, [], tokenizer, form), model, [], {})
    state = StateFolder(tmp_path / "state")
    async with engine(bundle.codec, tokenizer) as stand_in:
        opened = gateway(bundle, stand_in.url, state)
        url = await asyncio.to_thread(opened.__enter__)
        try:
            yield stand_in, bundle, url
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)


def judged(bundle: Bundle, url: str) -> tuple[Served, list[Check]]:
    """What `limbeck gate` and `limbeck evaluate` do with a served bundle, under the default gates."""
    task = bundle.task
    served = ask(url, bundle.folder, GOLD, task, quiet, load=False)
    found = quality(GOLD, served.rows, task, invalid=served.invalid)
    gates = Gates(engine_label_agreement=None, released_margin=None, max_slower=None)
    return served, judge(gates, evidence_of(
        task, GOLD, served, found, student_confidence(task, GOLD, served),
        constrained=bundle.codec.answer_form.constrained,
    ))


def test_a_student_that_writes_nonsense_fails_the_gate(
    tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    async def run() -> None:
        async with serving("json", tmp_path, tiny_llama, tokenizer) as (stand_in, bundle, url):
            served, checks = await asyncio.to_thread(judged, bundle, url)
            assert (passed(checks), served.invalid) == (True, [None] * 3)
            for kind, choice in BROKEN.items():
                stand_in.choice = choice
                served, checks = await asyncio.to_thread(judged, bundle, url)
                (check,) = checks
                assert (check.rule, check.ok, passed(checks)) == ("max_invalid", False, False)
                assert check.found == f"invalid answers ({kind.replace('_', ' ')} 3) 100.0 %"
                assert served.invalid == [kind] * 3
            metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(f"{url}/metrics").read().decode())
            for kind in BROKEN:
                assert f'limbeck_invalid_total{{bundle="{bundle.id}",kind="{kind}"}} 3.0' in metrics
            assert f'limbeck_answers_total{{bundle="{bundle.id}",source="student",status="invalid"}} 12.0' in metrics

            # A prediction file keeps the mark: an empty list alone could be taken for a query without labels.
            write_jsonl(tmp_path / "gold.jsonl", (g.to_json() for g in GOLD))
            rows = zip(served.rows, served.invalid, strict=True)
            write_jsonl(tmp_path / "said.jsonl", (prediction_row(*x) for x in rows))
            scored = score_files(tmp_path / "gold.jsonl", tmp_path / "said.jsonl", resamples=10)
            assert (scored["invalid"]["value"], scored["invalid_kinds"]) == (1.0, {kind: 3})

            load = Settings(rate=20.0, seconds=1.0, repeats=1, single=2, warm_up=2)
            figures = await asyncio.to_thread(lambda: bench(Target(url), [g.query for g in GOLD], load).figures)
            assert figures["steady"]["invalid_answers"] == figures["steady"]["requests"] > 0

    asyncio.run(run())


def test_an_engine_whose_scores_are_no_numbers_fails_the_gate(
    tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer
) -> None:
    async def run() -> None:
        async with serving("read", tmp_path, tiny_llama, tokenizer) as (stand_in, bundle, url):
            _, (check,) = await asyncio.to_thread(judged, bundle, url)
            assert check.ok
            assert "decoding rules out labels that the task does not allow" in check.found
            stand_in.mood = "nan"
            served, (check,) = await asyncio.to_thread(judged, bundle, url)
            assert (check.ok, served.invalid) == (False, ["unreadable"] * 3)

    asyncio.run(run())


def test_nothing_to_compare_is_no_agreement() -> None:
    empty: list[Any] = [Example("oat milk")]
    assert agreement_on(empty, empty, kind="gold") is None
    assert agreement_on(GOLD, [Example(g.query) for g in GOLD], kind="gold") == Agreement(0.0, 3, "3 gold queries")
    assert agreement_on(GOLD, GOLD, kind="reference") == Agreement(1.0, 3, "3 reference queries")
