"""Studies for real, on a tiny base: variants are trained under Ray, judged, reported, and not done twice.

The second time each is a command of the docs.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.operations.tables import render_ablation, render_composition, render_sweep
from limbeck.pipeline import run_up_to
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.studies.ablate import ablate, verdict
from limbeck.studies.compose import compose
from limbeck.studies.sweep import recommended, sweep, sweep_verdict, warn_of_few
from task.errors import InputError, InputWarning
from task.files import read_json
from task.load import load_task
from tests.documented import documented
from tests.limbeck.stages.test_cross_fit import labelled
from tests.limbeck.test_cli import in_process, small_task


def run_of(folder: Path, base: Path, progress: ProgressDisplay, *, name: str = "tiny") -> Run:
    import json

    rows = labelled()
    (folder / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[::2]))
    (folder / "gold.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[1:80:4]))
    (folder / "task.yaml").write_text(yaml.safe_dump({
        "name": name, "roles": [{"name": "brand"}, {"name": "product"}],
        "data": {"dir": ".", "labels": "labels.jsonl", "gold": {"test": "gold.jsonl"}},
        "teacher": {"backend": "labels"}, "curriculum": {"dev_fraction": 0.2},
        "student": {
            "base": str(base), "dtype": "float32", "batch_size": 8, "max_steps": 6, "learning_rate": 0.01,
            "lora": {"rank": 4, "alpha": 8}, "eval_every": 100, "cpus_per_worker": 1, "warmup_steps": 2,
        },
        "eval": {"resamples": 200},
    }))
    run = Run.of(load_task(folder / "task.yaml").task, folder.parent / "runs", progress)
    run_up_to(run, "curriculum")
    return run


def succeeds(words: list[str], *options: str | Path) -> str:
    """Run a command in this process, which is connected to Ray already, and return what it printed."""
    done = CliRunner().invoke(app, [*words, *map(str, options)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_an_ablation_compares_and_goes_on(tiny_llama: Path, tmp_path: Path) -> None:
    with ProgressDisplay() as progress:
        run = run_of(tmp_path, tiny_llama, progress)
        page = ablate(run, orders=["shuffled"], weightings=["none"], seeds=1, steps=None)
        before = {p: p.stat().st_mtime_ns for p in run.files.folder.glob("ablate/*/manifest.json")}
    printed = succeeds(
        documented("limbeck ablate TASK", TASK=tmp_path / "task.yaml"), "--runs", run.files.folder.parent,
        "--order", "shuffled", "--order", "easy-to-hard", "--weighting", "none", "--seeds", "1",
    )
    assert "| easy-to-hard, none |" in printed
    assert len(before) == 1
    assert {p: p.stat().st_mtime_ns for p in before} == before
    found = read_json(page.with_name("ablation.json"))
    assert [v["name"] for v in found["variants"]] == ["shuffled, none", "easy-to-hard, none"]
    assert found["steps"] == 6
    assert all(len(v["f1"]["seeds"]) == 1 for v in found["variants"])
    assert found["variants"][0]["less_reference"] is None
    easy = run.files.ablation / "easy-to-hard-none-0"
    lengths = [len(r["query"].split()) for r in read_json(easy / "job.json")["train"]]
    assert lengths[0] < lengths[-1]
    assert found["verdict"] in page.read_text()
    assert "| easy-to-hard, none |" in render_ablation(page.with_name("ablation.json"))
    with ProgressDisplay() as progress, pytest.raises(InputError, match="--order: unknown variant; found 'fast'"):
        ablate(run_of(tmp_path, tiny_llama, progress), orders=["fast"], weightings=["none"], seeds=1, steps=None)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_sweep_recommends_and_is_not_run_twice(tiny_llama: Path, tmp_path: Path) -> None:
    with ProgressDisplay() as progress:
        run = run_of(tmp_path, tiny_llama, progress)
        page = sweep(run, ranks=[2], targets=["attention"], steps=None)
        marks = {p: p.stat().st_mtime_ns for p in run.files.folder.glob("sweep/*/measured.json")}
    succeeds(
        documented("limbeck sweep TASK", TASK=tmp_path / "task.yaml"), "--runs", run.files.folder.parent,
        "--rank", "2", "--targets", "attention", "--targets", "q_proj+v_proj",
    )
    assert len(marks) == 1
    assert {p: p.stat().st_mtime_ns for p in marks} == marks
    found = read_json(page.with_name("sweep.json"))
    trained = {v["name"]: v["trained"] for v in found["variants"]}
    assert trained["rank 2, attention"] > trained["rank 2, q_proj+v_proj"]
    assert found["recommended"] in trained
    assert found["margin"] == 0.01
    assert "lies above minus the margin of 1 point." in page.read_text()
    assert f"**{found['recommended']}**" in render_sweep(page.with_name("sweep.json"))
    assert found["verdict"] in page.read_text()


def test_a_sweep_over_layers_that_the_base_does_not_have_is_refused_before_anything_is_done(
    tiny_llama: Path, tmp_path: Path
) -> None:
    task = small_task(tmp_path, [{"query": "oat milk", "labels": [{"role": "brand", "text": "oat"}]}])
    options = ("--runs", tmp_path / "runs", "--set", f"student.base={tiny_llama}")
    done = in_process("sweep", task, *options, "--rank", "4", "--targets", "attention", "--targets", "foo")
    assert done.returncode == 2
    assert "student.lora.targets: the base has no layer of this name: 'foo'" in done.stderr
    assert "names of layers: down_proj, gate_proj" in done.stderr
    assert not (tmp_path / "runs").exists()
    for command in ("check", "plan"):
        said = in_process(command, task, *options, "--set", "student.lora.targets=[foo]").stdout
        assert "✗ student.base: " in said
        assert "no layer of this name: 'foo'" in said


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_composed_adapters_stand_beside_each_tasks_own(tiny_llama: Path, tmp_path: Path) -> None:
    with ProgressDisplay() as progress:
        composed = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            composed.append(run_of(tmp_path / name, tiny_llama, progress, name=name))
        for run in composed:
            run_up_to(run, "train")
        words = documented("limbeck compose TASK TASK …", TASK=tmp_path / "one" / "task.yaml")
        words[-1] = str(tmp_path / "other" / "task.yaml")
        runs = composed[0].files.folder.parent
        printed = succeeds(words, "--runs", runs, "--method", "linear", "--method", "cat", "--max-rows", "10")
        page = Path(printed.split("Report: ")[1].strip())
        with pytest.raises(InputError, match="--weight: not one weight for each task; found 1; expected 2"):
            compose(composed, methods=["linear"], weights=[1.0], density=0.5, max_rows=10)
    found = read_json(page.with_name("composition.json"))
    assert [a["name"] for a in found["adapters"]] == ["one", "other", "linear", "cat"]
    assert found["rows"] == {"one": 10, "other": 10}
    own = found["adapters"][0]["tasks"]
    assert own["one"]["less_own"] is None
    assert own["other"]["less_own"]["value"] == 0  # trained alike on the same rows
    assert (page.parent / "linear" / "adapter_config.json").exists()
    assert "| linear |" in render_composition(page.with_name("composition.json"))
    assert "linear on other" in page.read_text()


def variant(name: str, trained: int, value: float, less: dict[str, float] | None) -> dict[str, Any]:
    return {"name": name, "trained": trained, "f1": {"value": value}, "less_best": less, "less_reference": less}


def test_the_smallest_adapter_that_is_not_worse_is_recommended() -> None:
    best = variant("large", 400, 0.90, None)
    level = variant("middle", 200, 0.89, {"value": -0.001, "low": -0.008, "high": 0.006})
    worse = variant("small", 100, 0.85, {"value": -0.05, "low": -0.06, "high": -0.04})
    assert recommended([best, level, worse], 0.01)["name"] == "middle"
    assert sweep_verdict([best, level, worse], 0.01, 900) == (
        "use `middle`: ΔF1 against the best, `large`, -0.1 [-0.8, +0.6] points, within the margin of 1, with 50% of "
        "its parameters; all smaller adapters are significantly worse"
    )
    assert recommended([best, level, worse], 0.007)["name"] == recommended([best, worse], 0.01)["name"] == "large"
    assert sweep_verdict([best, worse], 0.01, 900) == (
        "use `large`: it has the highest F1; all smaller adapters are significantly worse"
    )
    assert sweep_verdict([best], 0.01, 900) == "use `large`: it has the highest F1"


def test_a_sweep_on_few_rows_recommends_the_best_and_says_what_they_can_show() -> None:
    """Zero within a wide interval is no evidence that a smaller adapter is as good."""
    best = variant("rank 8, attention", 400, 0.203, None)
    wide = variant("rank 4, attention", 200, 0.152, {"value": -0.051, "low": -0.167, "high": 0.012})
    undefined = variant("rank 2, attention", 100, 0.0, {"value": None, "low": None, "high": None})
    worse = variant("rank 1, attention", 50, 0.0, {"value": -0.2, "low": -0.3, "high": -0.1})
    assert recommended([best, wide, undefined, worse], 0.01)["name"] == "rank 8, attention"
    open_ = "use `rank 8, attention`: it has the highest F1; `rank 4, attention` not shown to be as good: "
    assert sweep_verdict([best, wide], 0.01, 18) == (
        f"{open_}18 rows can show differences of 11.6 points, the margin is 1"
    )
    said = sweep_verdict([best, wide, undefined, worse], 0.01, 18)
    assert "`rank 4, attention`, `rank 2, attention` not shown to be as good" in said
    assert said.endswith("; worse are `rank 1, attention`")


def test_too_few_rows_for_the_margin_are_told_before_anything_is_trained(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_few(500, 0.01)
        warn_of_few(18, 0.06)
    with pytest.warns(InputWarning, match="--margin: 18 dev rows can show differences from about 5.3 points on, and"):
        warn_of_few(18, 0.01)

    def reached(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("limbeck.studies.sweep._run", reached)  # the training
    with ProgressDisplay() as progress:
        run = run_of(tmp_path, tiny_llama, progress)
        with pytest.warns(InputWarning, match="dev rows can show"), pytest.raises(KeyboardInterrupt):
            sweep(run, ranks=[2], targets=["attention"], steps=None)


def test_the_winner_may_be_the_reference() -> None:
    reference = variant("shuffled, none", 0, 0.9, None)
    level = variant("growing, none", 0, 0.91, {"value": 0.01, "low": -0.001, "high": 0.02})
    better = variant("growing, confidence", 0, 0.93, {"value": 0.03, "low": 0.01, "high": 0.05})
    assert "use that" in verdict([reference, level], "shuffled, none")
    assert verdict([reference, level, better], "shuffled, none").startswith(
        "use `growing, confidence`: ΔF1 against `shuffled, none` +3.0"
    )
