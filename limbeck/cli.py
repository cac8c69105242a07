"""The command line: the stages of a run. Other commands are in `studies`, `measures` and `operations`.

Each command is a typed function; heavy imports wait until a command needs them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck import __version__
from limbeck.commands.measuring import app as measures
from limbeck.commands.operations import BundleFolder
from limbeck.commands.operations import app as operations
from limbeck.commands.options import RUNS, Overrides, Runs, TaskFile, opened
from limbeck.commands.studies import app as studies

if TYPE_CHECKING:
    from limbeck.pipeline import Pipeline
    from limbeck.stage import Result

os.environ.setdefault("TQDM_DISABLE", "1")  # one progress display, ours
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    name="limbeck",
    help="Distil an expensive labelling LLM into a small student that answers in milliseconds.\n\n"
    "Start with `limbeck plan configs/market.yaml`, then `limbeck run configs/market.yaml`.",
    epilog="Exit codes: 0 done; 1 a gate failed; 2 usage or bad input; 3 the measurement is invalid.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.add_typer(studies)
app.add_typer(measures)
app.add_typer(operations)


def main() -> None:
    """Entry point: errors that a person can act on become one line and an exit code."""
    from task.errors import ComponentError, GateError, InputError

    try:
        app()
    except InputError as error:
        _fail(str(error), 2)
    except (GateError, ComponentError) as error:
        _fail(str(error), 1)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}. Is the disk full, or the folder not writable?", 2)
    except KeyboardInterrupt:
        _fail("stopped; run the same command to go on where it stopped", 130)


def _fail(text: str, code: int) -> None:
    print(f"limbeck: {text}", file=sys.stderr)
    raise SystemExit(code)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    del version


def _stage(task: Path, overrides: list[str] | None, runs: Path, last: str) -> tuple[Pipeline, Result]:
    with opened(task, overrides, runs) as pipeline:
        return pipeline, pipeline.upto(last)


def _evaluate(task: Path, overrides: list[str] | None, runs: Path) -> None:
    """The report is written and shown first; a gate that it misses decides the exit code."""
    from limbeck.operations.tables import print_summary

    pipeline, result = _stage(task, overrides, runs, "evaluate")
    print_summary(result.folder)
    pipeline.gate(result)


@app.command()
def run(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Everything: label, build the curriculum, train, merge, bundle, evaluate.

    Stages whose inputs and config have not changed are not run again; one that was killed goes on where it stopped.
    """
    _evaluate(task, set_, runs)


@app.command()
def plan(task: TaskFile, set_: Overrides = None) -> None:
    """Say what a run will take: calls, tokens, money, parameters, memory, minutes. Spends and downloads nothing."""
    from limbeck.plan import print_plan
    from task.load import load_task

    print_plan(load_task(task, set_ or ()))


@app.command()
def label(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only say what would be asked again, judged again for nothing, or left alone")
    ] = False,
) -> None:
    """Label the query log; every query comes out with a status, no reply is paid for twice.

    After a change of catalogue, prompt, guardrails or task, `--plan` says what the change will cost.
    """
    if plan_only:
        from limbeck.operations.ledger_view import print_plan as print_label_plan

        with opened(task, set_, runs) as pipeline:
            found = pipeline.plan_labels()
        print_label_plan(found)
        return
    _, result = _stage(task, set_, runs, "label")
    print(result.folder / "labels.jsonl")


@app.command()
def ledger(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    status: Annotated[str | None, typer.Option(help="Only queries of this status")] = None,
    role: Annotated[str | None, typer.Option(help="Only queries with a label of this role")] = None,
    reason: Annotated[str | None, typer.Option(help="Only queries with this text in a reason or verdict")] = None,
    below: Annotated[float | None, typer.Option(help="Only queries whose confidence is below this")] = None,
    query: Annotated[str | None, typer.Option(help="Everything about one query: evidence, attempts, verdicts")] = None,
    out: Annotated[Path | None, typer.Option("--export", help="Write the queries chosen to this Parquet file")] = None,
    limit: Annotated[int, typer.Option(help="Most rows to show", min=1)] = 20,
) -> None:
    """Show what labelling did and cost: by status, model, day; filter, look at one query, export.

    Without a filter it sums up; with one it lists the queries that pass.
    """
    from limbeck.operations import ledger_view as view

    with opened(task, set_, runs) as pipeline, view.open_ledger(pipeline) as book:
        rows = view.chosen(book, status, role, reason, below)
        if query is not None:
            view.print_query(book, query)
        elif out is not None:
            print(f"{view.export(rows, out):,} rows in {out}")
        elif any(x is not None for x in (status, role, reason, below)):
            view.print_rows(rows, limit)
        else:
            view.print_overview(book)


@app.command()
def curriculum(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Turn accepted labels into deduplicated train and dev splits, as a `datasets` folder."""
    _, result = _stage(task, set_, runs, "curriculum")
    print(result.folder)


@app.command()
def train(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Train the student's LoRA adapter under Ray Train, and what comes before."""
    _, result = _stage(task, set_, runs, "train")
    print(result.folder / "adapter")


@app.command()
def merge(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Fold the adapter into the base and prove that the merged model answers the same."""
    _, result = _stage(task, set_, runs, "merge")
    print(json.dumps(dict(result.manifest["figures"]), indent=2))


@app.command()
def bundle(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Pack model, codec and head cache into the unit that is served."""
    _, result = _stage(task, set_, runs, "bundle")
    print(result.folder / "bundle")


@app.command()
def evaluate(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Measure dictionary, teacher and student on gold, serve the bundle, and write the report."""
    _evaluate(task, set_, runs)


@app.command()
def predict(
    folder: BundleFolder,
    source: Annotated[Path, typer.Option("--in", help="Queries: .jsonl, .csv or .parquet")],
    out: Annotated[Path, typer.Option("--out", help="Predictions, as JSON lines")],
    use_cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Answer head queries from the cache")] = True,
    log: Annotated[Path, typer.Option(help="vLLM's log")] = Path("limbeck-engine.log"),
) -> None:
    """Label a file of queries with a bundle."""
    from limbeck.operations.predict import predict as predict_file
    from limbeck.progress_display import Console
    from serving.release.bundle import open_bundle
    from task.files import write_jsonl
    from task.readers import read_queries

    opened, rows = open_bundle(folder), read_queries(source)
    with Console() as console:
        found = predict_file(opened, rows, log, use_cache=use_cache, progress=console)
    print(f"{write_jsonl(out, (x.to_json() for x in found)):,} rows in {out}")


if __name__ == "__main__":
    main()
