"""The commands of a run: its plan, its stages, its ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.commands.options import RUNS, Overrides, Runs, TaskFile, opened

if TYPE_CHECKING:
    from limbeck.stage import Result

app = typer.Typer()


def _up_to(
    last: str, task: Path, overrides: list[str] | None, runs: Path, show: Callable[[Result], object]
) -> None:
    """The result is shown first; then what could not be done sets the exit code."""
    from limbeck.pipeline import run_up_to

    with opened(task, overrides, runs) as run:
        result = run_up_to(run, last)
    show(result)
    run.end()


def _evaluate(task: Path, overrides: list[str] | None, runs: Path, *, checked: bool = False) -> None:
    """The report is written and shown first; then a failed gate sets the exit code.

    Args:
        checked: Whether everything that can be known before is looked at first.
    """
    from limbeck.operations.tables import print_summary
    from limbeck.pipeline import run_up_to
    from limbeck.stages.evaluate import note_verdict
    from task.errors import GateError

    with opened(task, overrides, runs) as run:
        if checked:
            from limbeck.checks.checks import check_before_run

            check_before_run(run)
        result = run_up_to(run, "evaluate")
    print_summary(result.folder)
    try:
        note_verdict(run, result)
    except GateError as error:
        raise GateError("; ".join([str(error), *(x.text for x in run.shortfalls)])) from error
    run.end()


@app.command()
def run(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Run all stages: label, curriculum, train, merge, bundle, evaluate.

    What `limbeck check` finds wrong ends the command with exit code 2 before anything is spent. A stage is skipped if
    nothing that it depends on has changed; an interrupted one resumes. Exit code 1: a gate failed, or queries have no
    answer; the same command asks for these again.
    """
    _evaluate(task, set_, runs, checked=True)


@app.command()
def check(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    call: Annotated[
        bool, typer.Option("--call", help="Also ask the LLM's endpoint for its list of models, which costs nothing")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON")] = False,
) -> None:
    """List everything that can be known before a run: data, gold, gates, price, key, base, disk, memory.

    Spends nothing and writes nothing. ✓ is well, ! is worth knowing, ✗ would keep the task from running or fail late:
    exit code 2.
    """
    from limbeck.checks.checks import check as look
    from limbeck.checks.checks import render, to_json

    with opened(task, set_, runs) as run:
        findings = look(run, call=call)
    print(json.dumps(to_json(run, findings), ensure_ascii=False, indent=2) if as_json else render(findings))
    if any(f.state == "bad" for f in findings):
        raise typer.Exit(2)


@app.command()
def plan(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Estimate a run: calls, tokens, money, parameters, memory, time. Spends and downloads nothing.

    Before it, what `limbeck check` finds not to be well. If there is a run folder: which stages would be run again, and
    why.
    """
    from limbeck.checks.checks import check, render
    from limbeck.operations.tables import render_states
    from limbeck.pipeline import standing, states
    from limbeck.plan import print_plan
    from limbeck.progress_display import ProgressDisplay
    from limbeck.run import Run
    from task.load import load_task

    loaded = load_task(task, set_ or ())
    run = Run.of(loaded.task, runs, ProgressDisplay())
    if (findings := [f for f in check(run, thorough=False) if f.state != "ok"]):
        print(f"Before a run, see `limbeck check {task}`:\n{render(findings)}\n")
    found = states(run) if run.files.folder.exists() else []
    print_plan(loaded, run, standing(run, found))
    if found:
        print(f"\nStages in {run.files.folder}\n{render_states(found)}")


@app.command()
def label(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only show which queries would be asked again, validated again or kept")
    ] = False,
) -> None:
    """Label the query log: every query gets a status, and no reply is paid for twice.

    After a change of catalogue, prompt, guardrails or task, `--plan` says what the change will cost. Exit code 1: some
    queries have no answer; the same command asks these again, and no others. Answers that cannot be read are asked
    again too, but are no failure, unless they are more than half.
    """
    if plan_only:
        from limbeck.checks.finding import Subject
        from limbeck.checks.gold import calibration
        from limbeck.operations.ledger_view import print_plan as print_label_plan
        from limbeck.pipeline import prepare_inputs
        from limbeck.stages.label import plan as plan_labels

        with opened(task, set_, runs) as run:
            prepare_inputs(run)
            found = plan_labels(run)
        print_label_plan(found)
        for finding in calibration(Subject(run)):
            if finding.state == "note":
                print(f"! {finding.text}")
        return
    _up_to("label", task, set_, runs, lambda done: print(done.folder / "labels.jsonl"))


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
    out: Annotated[
        Path | None, typer.Option("--export", help="Write the queries chosen to this .csv or .parquet file")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --export replace a file")] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of rows", min=1)] = 20,
) -> None:
    """Show labels, attempts and cost by status, model and day; filter, inspect one query, export.

    Without a filter: a summary. With one: the queries that pass it.
    """
    from limbeck.operations import ledger_view as view

    with opened(task, set_, runs) as run, view.open_ledger(run) as book:
        names = [r.name for r in run.task.roles]
        rows = view.chosen(book, names, status=status, role=role, reason=reason, below=below)
        if query is not None:
            view.print_query(book, query)
        elif out is not None:
            print(f"{view.export(rows, out, overwrite=overwrite):,} rows in {out}")
        elif any(x is not None for x in (status, role, reason, below)):
            view.print_rows(rows, limit)
        else:
            view.print_overview(book)


@app.command()
def context(
    task: TaskFile,
    query: Annotated[str, typer.Option(help="Any query; the log need not have it")],
    set_: Overrides = None,
    runs: Runs = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print context and messages as JSON")] = False,
) -> None:
    """Show what the LLM would be shown for a query: the retrieved context and the prompt. No call is made."""
    from limbeck.operations.shown_prompt import render, shown_prompt
    from limbeck.pipeline import prepare_inputs

    with opened(task, set_, runs) as run:
        prepare_inputs(run)
        found = shown_prompt(run, query)
    print(json.dumps(found, ensure_ascii=False, indent=2) if as_json else render(found))


@app.command()
def curriculum(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Turn accepted labels into deduplicated train and dev splits, as a `datasets` folder."""
    _up_to("curriculum", task, set_, runs, lambda done: print(done.folder))


@app.command()
def train(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Train the student's LoRA adapter under Ray Train, after the stages before it."""
    _up_to("train", task, set_, runs, lambda done: print(done.folder / "adapter"))


@app.command()
def merge(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Merge the adapter into the base and check that the merged model gives the same answers."""
    _up_to("merge", task, set_, runs, lambda done: print(json.dumps(dict(done.figures), indent=2)))


@app.command()
def bundle(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Pack model, codec and head cache into the unit that is served."""
    _up_to("bundle", task, set_, runs, lambda done: print(done.folder / "bundle"))


@app.command()
def evaluate(task: TaskFile, set_: Overrides = None, runs: Runs = RUNS) -> None:
    """Score dictionary, teacher and student on gold, benchmark the served bundle, write the report."""
    _evaluate(task, set_, runs)
