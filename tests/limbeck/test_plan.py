"""The estimates of `limbeck plan` rest on measurements that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.environment import device
from limbeck.labelling_plan import QUERIES_PER_S, Line, Standing, minutes
from limbeck.plan import QUERY_TOKENS, make_plan, training_estimate
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.staleness import settings_of_training
from limbeck.training_speed import CPU_FLOPS, FP32_FLOPS
from student.estimate import KNOWN, training_flops
from task import processor
from task.errors import InputError
from task.files import read_json, write_json
from task.load import LoadedTask
from teacher.backends.backend import backend_of
from tests.conftest import make_task


@pytest.mark.parametrize("backend", QUERIES_PER_S)
def test_the_rate_of_a_backend_is_the_one_that_was_measured_with_it(backend: str) -> None:
    rate, measured = QUERIES_PER_S[backend]
    (label,) = [s for s in read_json(Path(measured))["stages"] if s["name"] == "label"]
    assert rate == pytest.approx(label["figures"]["rows"] / label["wall_s"], rel=0.02)


def test_the_time_of_labels_that_are_there_already_is_that_of_reading_and_checking_them(tmp_path: Path) -> None:
    rows = [{"query": f"oat milk {i}", "labels": []} for i in range(9_004)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = make_task(data={"dir": str(tmp_path), "labels": "labels.jsonl"})
    assert not backend_of(task).asks_llm
    (time,) = [x for x in make_plan(LoadedTask(task, tmp_path / "task.yaml"))["teacher"] if x.name == "time"]
    assert (time.value, time.basis.split(",")[:2]) == ("2 s", ["4", "430 queries/s"])


@pytest.mark.parametrize("source", ["queries", "labels"])
def test_a_misspelt_data_file_is_named_instead_of_planned_with_an_assumed_number(tmp_path: Path, source: str) -> None:
    teacher = {"backend": "openai", "openai": {"prompt": "label.j2"}} if source == "queries" else {"backend": "labels"}
    task = make_task(data={"dir": str(tmp_path), source: "quries.jsonl"}, teacher=teacher)
    with pytest.raises(InputError, match=rf"quries\.jsonl.*data\.{source}.*no such file"):
        make_plan(LoadedTask(task, tmp_path / "task.yaml"))


def test_a_folder_that_is_not_on_this_machine_can_be_planned(tmp_path: Path) -> None:
    task = make_task(data={"dir": str(tmp_path / "elsewhere"), "labels": "labels.jsonl"})
    (line,) = [x for x in make_plan(LoadedTask(task, tmp_path / "task.yaml"))["teacher"] if x.name == "queries"]
    assert (line.value, "assumed" in line.basis) == ("8,000", True)


@pytest.mark.parametrize("priced", [True, False])
def test_a_budget_without_a_price_is_refused_by_the_plan_and_not_only_by_the_labelling(
    tmp_path: Path, priced: bool
) -> None:
    (tmp_path / "queries.jsonl").write_text('{"query": "oat milk"}\n')
    (tmp_path / "label.j2").write_text("Label it.")
    openai = {
        "prompt": str(tmp_path / "label.j2"), "budget": 1.0, "base_url": "http://127.0.0.1:9/v1",
        "model": "gpt-4.1-mini",
        **({"price_input_per_million": 1.0, "price_output_per_million": 2.0} if priced else {}),
    }
    task = make_task(
        data={"dir": str(tmp_path), "queries": "queries.jsonl"}, teacher={"backend": "openai", "openai": openai}
    )
    loaded = LoadedTask(task, tmp_path / "task.yaml")
    if priced:
        assert "the task file" in next(x.basis for x in make_plan(loaded)["teacher"] if x.name == "money")
        return
    with pytest.raises(InputError) as caught:
        make_plan(loaded)
    text = str(caught.value)
    assert "gpt-4.1-mini at http://127.0.0.1:9/v1" in text  # the list has the model, but not at this address
    assert "model of the price list" not in text


def test_durations() -> None:
    assert [minutes(s) for s in (0.2, 1.6, 600, 7_200)] == ["under 1 s", "2 s", "10 min", "2.0 h"]


@pytest.mark.parametrize("labels", [True, False])
def test_the_tokens_of_a_row_have_its_rewrites(tmp_path: Path, labels: bool) -> None:
    """Those of the labels where there are any: two texts of a token and two of a line; else as many as there can be."""
    texts = [{"role": "synonym", "text": t} for t in ("oats", "milk")]
    (tmp_path / "labels.jsonl").write_text("".join(
        json.dumps({"query": f"milk {n:03d}", "labels": texts}) + "\n" for n in range(200)
    ))
    data = {"dir": str(tmp_path if labels else tmp_path / "elsewhere"), "labels": "labels.jsonl"}
    roles = [{"name": "synonym", "kind": "text", "most": 3}]
    tokens = {}
    for name, more in (("alone", []), ("with words", [{"name": "product"}])):
        task = make_task(data=data, roles=[*more, *roles], student={"form": "write", "base": "SmolLM2-135M-Instruct"})
        found = training_estimate(task)
        assert found is not None
        tokens[name] = found.tokens
    query = 2 if labels else QUERY_TOKENS
    written = 2 * (2 + 1) if labels else 3 * (2 + query)
    assert tokens == {"alone": query + 1 + written + 1, "with words": 2 * query + 1 + written + 1}


AVX512, AVX2 = "flags : avx512bw avx512vl avx512dq", "flags : avx2"
BASE = "SmolLM2-135M-Instruct"
ELSEWHERE = {"dir": "/not/here", "labels": "labels.jsonl"}  # 8,000 queries are assumed


@pytest.mark.parametrize(("flags", "dtype", "flops", "said"), [
    (AVX512, "bfloat16", CPU_FLOPS, "AVX-512 bf16"), (AVX2, "bfloat16", FP32_FLOPS, "fp32 with AVX2"),
    (AVX512, "float32", FP32_FLOPS, "fp32 with AVX2"),
])
def test_the_time_of_a_training_is_that_of_what_the_processor_computes_in(
    flags: str, dtype: str, flops: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda *_fields: flags)
    found = training_estimate(make_task(data=ELSEWHERE, student={"base": BASE, "dtype": dtype}))
    assert found is not None
    assert found.seconds == pytest.approx(found.flops / flops)
    assert said in found.speed.basis
    assert "assumed" in found.speed.basis


def plan_after_training(tmp_path: Path, cpu: str, rows: int | None = None, **student: Any) -> dict[str, Line]:
    """The plan's lines of the student in a run folder with a training of 100 steps that took 400 s."""
    task = make_task(data=ELSEWHERE, student={"base": BASE, **student})
    run = Run.of(task, tmp_path, ProgressDisplay())
    files = run.files.train
    files.folder.mkdir(parents=True, exist_ok=True)
    then = settings_of_training(make_task(data=ELSEWHERE, student={"base": BASE}))
    write_json(files.folder / "manifest.json", {"config": then, "device": {"cpu": cpu}})
    write_json(files.measured, {"steps": 100, "seconds": 400.0, "tokens": 64_000})
    files.curve.write_text("".join(json.dumps({"step": n, "rows": 32}) + "\n" for n in range(100)))
    plan = make_plan(LoadedTask(task, tmp_path / "task.yaml"), run, Standing(rows=rows))
    return {line.name: line for line in plan["student"]}


def test_a_training_that_was_measured_says_how_long_the_next_one_takes(tmp_path: Path) -> None:
    """Three epochs of as many rows: three times the steps of 20 tokens each, at what was measured."""
    lines = plan_after_training(tmp_path, device()["cpu"], rows=3_200, epochs=3)
    assert (lines["steps"].value, lines["steps"].basis.endswith("20 tokens each")) == ("300 of 32 rows", True)
    assert lines["time"].value == minutes(3 * 400.0)
    speed = training_flops(KNOWN[BASE], 64_000) / 400 / 1e9
    assert f"measured: 100 steps took 400 s in {tmp_path}/toy/train, {speed:,.0f} GFLOP/s" in lines["time"].basis


@pytest.mark.parametrize(("cpu", "student"), [("another", {}), (None, {"dtype": "float32"}), (None, {"workers": 2})])
def test_a_training_of_another_machine_or_computed_in_another_way_says_nothing(
    tmp_path: Path, cpu: str | None, student: dict[str, Any]
) -> None:
    lines = plan_after_training(tmp_path, cpu or device()["cpu"], **student)
    assert "assumed" in lines["time"].basis


def test_rows_that_are_assumed_are_called_so(tmp_path: Path) -> None:
    loaded = LoadedTask(make_task(data=ELSEWHERE, student={"base": BASE}), tmp_path / "task.yaml")
    (steps,) = [x for x in make_plan(loaded)["student"] if x.name == "steps"]
    assert "75% of the queries are kept" in steps.basis
    (steps,) = [x for x in make_plan(loaded, standing=Standing(rows=6_976))["student"] if x.name == "steps"]
    assert (steps.value, steps.basis.partition(",")[0]) == ("218 of 32 rows", "6")


@pytest.mark.parametrize(("engine", "least", "most", "said"), [
    ("openvino", 2.3, 2.7, "OpenVINO"), ("vllm", 0.0, 1.0, "vLLM"),
])
def test_the_memory_of_serving_is_that_of_the_engine_that_will_serve(
    engine: str, least: float, most: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda *_fields: AVX2)
    task = make_task(data=ELSEWHERE, student={"base": BASE}, serving={"engine": engine})
    memory = make_plan(LoadedTask(task, Path("task.yaml")))["serving"][0]
    assert least < float(memory.value.removesuffix(" GiB")) < most
    assert said in memory.basis
