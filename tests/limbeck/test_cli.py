"""The command line as a person meets it: exit codes and messages."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from limbeck.cli import app, main
from limbeck.commands.options import listed
from task.errors import InputError, own_error


def limbeck(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limbeck", *map(str, arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def in_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, where what takes seconds to import is imported already."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["limbeck", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("limbeck.commands.run.opened", interrupted)
    done = in_process("ledger", "configs/market.yaml")
    assert (done.returncode, "stopped; run the same command to resume" in done.stderr) == (130, True)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])  # ignored: in the background
def test_sigterm_ends_a_command_as_ctrl_c_does(monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
    cleaned: list[bool] = []

    @contextlib.contextmanager
    def opened(*_: object, **__: object) -> Iterator[None]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            yield
        finally:
            cleaned.append(True)

    monkeypatch.setattr("limbeck.commands.run.opened", opened)
    before = signal.signal(signal.SIGINT, handler)
    ended_by = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a command begins, whatever other tests have started
    try:
        done = in_process("ledger", "configs/market.yaml")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, ended_by)
    assert (done.returncode, "stopped; run the same command to resume" in done.stderr) == (143, True)
    assert cleaned == [True]


class OfAWorkerError(Exception):
    """What Ray makes of an exception: the text is a traceback, and the class may be that of the cause, too."""

    def __init__(self, cause: Exception | None = None, **failures: Exception) -> None:
        super().__init__("Traceback (most recent call last):")
        self.cause, self.worker_failures = cause, failures


class OfAWorkerAndOursError(OfAWorkerError, InputError):
    def __init__(self, cause: Exception) -> None:
        OfAWorkerError.__init__(self, cause)


OURS = InputError("no such layer", field="student.lora.targets")


@pytest.mark.parametrize("error", [OURS, OfAWorkerAndOursError(OURS), OfAWorkerError(a=OfAWorkerError(OURS))])
def test_an_input_error_of_a_worker_is_an_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("limbeck.commands.run.opened", failing)
    done = in_process("ledger", "configs/market.yaml")
    assert (done.returncode, done.stderr) == (2, "limbeck: student.lora.targets: no such layer\n")


def test_our_error_is_found_in_what_ray_raises() -> None:
    from ray.exceptions import RayTaskError

    assert own_error(OfAWorkerError(a=OfAWorkerError(OURS))) is OURS
    assert own_error(OfAWorkerError(a=ValueError("x"))) is None
    ours, bug = RayTaskError("f", "Traceback", None), RuntimeError("a bug")
    ours.__cause__ = bug.__cause__ = OURS
    assert own_error(ours) is OURS
    assert own_error(RayTaskError("f", "Traceback", OURS).as_instanceof_cause()) is OURS
    assert own_error(bug) is None


def test_help_teaches_every_command() -> None:
    done = limbeck("--help")
    assert done.returncode == 0
    for command in ("run", "plan", "label", "curriculum", "train", "merge", "bundle", "evaluate", "forms", "serve",
                    "ledger", "check", "init", "audit-context", "bench", "compare", "gate", "predict", "score"):
        assert command in done.stdout
        assert in_process(command, "--help").returncode == 0


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "limbeck", "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not loaded & {"torch", "transformers", "ray", "vllm", "numpy", "pydantic", "matplotlib", "pyarrow"}


def test_usage_errors_and_bad_input_exit_2(tmp_path: Path) -> None:
    assert limbeck("run").returncode == 2
    missing = in_process("plan", tmp_path / "none.yaml")
    assert (missing.returncode, "no such task file" in missing.stderr) == (2, True)
    wrong = in_process("plan", "configs/market.yaml", "--set", "student.form=sing")
    assert wrong.returncode == 2
    assert "--set student.form=sing: student.form: not a valid value; found 'sing'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_run_with_missing_data_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    done = in_process("label", "configs/queryner.yaml", "--set", f"data.dir={tmp_path}", "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert f"{tmp_path / 'train.jsonl'}: no such file" in done.stderr
    assert not (tmp_path / "runs" / "queryner" / "label").exists()


def test_a_bad_row_stops_the_run_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"query": "red shoe", "labels": [{"role": "colour", "text": "red"}]}\n')
    (tmp_path / "dev.jsonl").write_text('{"query": "red shoe", "labels": []}\n')
    done = in_process("label", "configs/queryner.yaml", "--set", f"data.dir={tmp_path}", "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert "train.jsonl:1: labels.0: unknown role 'colour'; the task has: core_product_type" in done.stderr
    assert not (tmp_path / "runs" / "queryner" / "label").exists()


def small_task(folder: Path, rows: list[dict[str, object]], role: str = "{name: brand}") -> Path:
    (folder / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = folder / "task.yaml"
    task.write_text(
        f"name: small\nroles: [{role}]\ndata: {{dir: ., labels: labels.jsonl}}\nteacher: {{backend: labels}}\n"
    )
    return task


def test_what_a_reader_leaves_out_is_said_once_on_standard_error(tmp_path: Path) -> None:
    """Several stages read the same table."""
    oat = {"query": "oat milk", "labels": [{"role": "brand", "text": "oat"}], "Cuont": 3}
    task = small_task(tmp_path, [oat, {"query": "oat milk", "labels": []}])
    done = in_process("curriculum", task, "--set", "data.conflicts=first", "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("limbeck: warning: ")]
    assert len(said) == 2
    assert f"{tmp_path}/labels.jsonl: columns not read: Cuont" in said[0]
    assert "1 queries have rows with different labels ('oat milk' in lines 1, 2); the first row" in said[1]
    assert "InputWarning" not in done.stderr
    labels = (tmp_path / "runs" / "small" / "label" / "labels.jsonl").read_text().splitlines()
    assert [(r["count"], len(r["labels"])) for r in map(json.loads, labels)] == [(2, 1)]


def test_a_task_whose_labels_all_vanish_is_refused(tmp_path: Path) -> None:
    """The rejected label leaves one accepted row, which has none."""
    rows = [{"query": "oat", "labels": [{"role": "brand", "text": "oat"}]}, {"query": "rye", "labels": []}]
    task = small_task(tmp_path, rows, role="{name: brand, pattern: '[0-9]+', guard: {must_match: true}}")
    done = in_process("curriculum", task, "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert "no row has a label: there is nothing to learn from; found '1 rows without labels'" in done.stderr
    assert not (tmp_path / "runs" / "small" / "curriculum").exists()


def test_no_network_says_so(tmp_path: Path) -> None:
    done = limbeck("label", "configs/queryner.yaml", "--runs", tmp_path, HF_HUB_OFFLINE="1",
                   HF_DATASETS_CACHE=str(tmp_path / "cache"), HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert "cannot load split 'train' of dataset 'bltlab/queryner'" in done.stderr
    assert "data.dir" in done.stderr


def test_an_unwritable_run_folder_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, not a folder")
    done = in_process("label", "configs/market.yaml", "--runs", tmp_path / "runs")
    assert done.returncode == 2
    assert str(tmp_path / "runs") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path) -> None:
    from task.files import write_text

    out = tmp_path / "out.json"
    (tmp_path / f".out.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_text(out, "x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_serving_what_is_no_bundle_and_a_port_in_use(tmp_path: Path) -> None:
    done = limbeck("serve", tmp_path)
    assert (done.returncode, "neither a bundle, nor a release pointer" in done.stderr) == (2, True)


def test_a_port_in_use_is_found_before_the_engine_starts(tmp_path: Path) -> None:
    from serving.gateway.uvicorn_server import listening
    from task.errors import InputError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expected = f"cannot listen on 127.0.0.1:{port}.*free port"
        with pytest.raises(InputError, match=expected), listening("127.0.0.1", port):
            pass


def test_score_compares_two_files(tmp_path: Path) -> None:
    gold = [{"query": "oat milk", "labels": [{"role": "product", "text": "oat milk"}]}, {"query": "x", "labels": []}]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(r) + "\n" for r in gold))
    (tmp_path / "found.jsonl").write_text(json.dumps(gold[0]) + "\n")
    done = in_process("score", tmp_path / "gold.jsonl", tmp_path / "found.jsonl", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["value"]["f1"]["value"], found["rows"], found["missing"]) == (1.0, 2, 1)
    assert "1 of 2 gold queries have no prediction: they count as empty answers" in done.stderr
    (tmp_path / "found.jsonl").write_text("")
    none = in_process("score", tmp_path / "gold.jsonl", tmp_path / "found.jsonl")
    assert none.returncode == 2, none.stdout
    (tmp_path / "found.jsonl").write_text(json.dumps({"query": "stray", "labels": []}) + "\n")
    stray = in_process("score", tmp_path / "gold.jsonl", tmp_path / "found.jsonl")
    assert (stray.returncode, "'stray'" in stray.stderr) == (2, True)


@pytest.mark.parametrize("name", ["market", "market-h100", "queryner"])
def test_plan_needs_no_data_no_gpu_and_no_download(name: str, tmp_path: Path) -> None:
    done = limbeck("plan", f"configs/{name}.yaml", LIMBECK_HOME=str(tmp_path / "none"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    for word in ("queries", "trained", "adapter", "memory", "time"):
        assert word in done.stdout
    if name == "market-h100":
        assert "41,943,040 (0.52%)" in done.stdout
        assert "8,030 M" in done.stdout
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("arguments", [["--version"], ["plan", "configs/market.yaml"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(arguments: list[str]) -> None:
    """`limbeck … | head`: what is left of the output is dropped without a word, and no gate seems to have failed."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "limbeck", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_option_that_may_be_given_several_times_says_so() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    several = {
        f"{name} {p.opts[0]}": str(p.help) for name, command in commands.items() for p in command.params
        if p.param_type_name == "option" and p.multiple
    }
    assert {"sweep --rank", "sweep --targets", "ablate --order", "compose --weight"} <= several.keys()
    assert [name for name, text in several.items() if "repeatable" not in text] == []


def test_values_may_be_joined_by_commas() -> None:
    assert listed("--rank", None, int, "a whole number") == []
    assert listed("--rank", ["4,8", " 16", "32, 64"], int, "a whole number") == [4, 8, 16, 32, 64]
    assert listed("--targets", ["attention,q_proj+v_proj"], str, "a group") == ["attention", "q_proj+v_proj"]


@pytest.mark.parametrize(("command", "option", "value", "said"), [
    ("sweep", "--rank", "4;8", "--rank: not such a value; found '4;8'; expected a whole number; repeatable, or joined"),
    ("sweep", "--rank", "4,,8", "--rank: not such a value; found ''"),
    ("compose", "--weight", "1,x", "--weight: not such a value; found 'x'; expected a number; repeatable"),
])
def test_what_is_no_value_of_a_list_is_told_with_how_to_give_several(
    command: str, option: str, value: str, said: str
) -> None:
    done = in_process(command, "configs/market.yaml", option, value)
    assert (done.returncode, said in done.stderr) == (2, True)


@pytest.mark.parametrize("around", [".", "bundle"])
@pytest.mark.parametrize("command", [
    ("verify",), ("serve",), ("predict", "--in", "q.csv", "--out", "p.jsonl"), ("release", "live.json"),
])
def test_a_run_folder_in_place_of_its_bundle_is_told_where_that_is(
    tmp_path: Path, around: str, command: tuple[str, ...]
) -> None:
    bundle = tmp_path / "bundle" / "bundle"
    bundle.mkdir(parents=True)
    for file in (bundle / "manifest.json", bundle / "codec.json", tmp_path / "bundle" / "manifest.json"):
        file.write_text("{}")
    name, *more = command
    done = in_process(name, tmp_path / around, *more)
    assert (done.returncode, f"Give {bundle}" in done.stderr) == (2, True)
