"""Commands of rounds: whether one is worth its money, what it would label, one round, and rounds by themselves."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.commands.options import RUNS, Overrides, Runs, TaskFile, opened

if TYPE_CHECKING:
    from limbeck.rounds.picks import Picks
    from limbeck.run import Run

app = typer.Typer()
_DATES = ["%Y-%m-%d"]
_SHOWN = 15


@app.command(rich_help_panel="Operations")
def drift(
    task: TaskFile,
    since: Annotated[datetime.datetime, typer.Option(formats=_DATES, help="First day of the current period, UTC")],
    until: Annotated[
        datetime.datetime | None, typer.Option(formats=_DATES, help="The day after its last; default: all captures")
    ] = None,
    state: Annotated[Path, typer.Option(help="State folder of `limbeck serve`")] = Path("limbeck-serve"),
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures here")] = None,
    fail: Annotated[bool, typer.Option("--fail", help="Exit code 1 if anything has moved, for schedulers")] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Say whether the traffic has moved since the first week of the served bundle, and whether a round is worth it.

    Compare whole weeks: days of the week differ. The verdict is left in the state folder, for the service's /metrics.
    Exit code 3: a period has too few captures.
    """
    from eval.drift_verdict import table
    from limbeck.pipeline import prepare_inputs
    from limbeck.rounds.drift import drift as measure
    from serving.telemetry.drift_gauges import publish
    from task.files import write_json

    begin, end = _period(since, until)
    with opened(task, set_, runs) as run:
        prepare_inputs(run)
        found = measure(run, state, since=begin, until=end)
        publish(state, run.task.name, found)
    if out:
        write_json(out, found)
    print(table(found))
    if fail and found["drifted"]:
        raise typer.Exit(1)


@app.command(rich_help_panel="Operations")
def pick(
    task: TaskFile,
    budget: Annotated[int, typer.Option(help="New labels to pay for", min=1)],
    out: Annotated[Path, typer.Option(help="Write the picks here, a query a line")] = Path("picks.jsonl"),
    random: Annotated[
        float, typer.Option(help="Share of the budget drawn by traffic, to estimate quality with", min=0.0, max=1.0)
    ] = 0.25,
    since: Annotated[datetime.datetime | None, typer.Option(formats=_DATES, help="First day of the captures, UTC")]
    = None,
    until: Annotated[
        datetime.datetime | None, typer.Option(formats=_DATES, help="The day after the last; default: all captures")
    ] = None,
    state: Annotated[Path, typer.Option(help="State folder of `limbeck serve`")] = Path("limbeck-serve"),
    seed: Annotated[int, typer.Option(help="Seed of the random draws")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --out replace a file")] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Pick the captured queries that are worth a label, with reasons and the estimated cost; nothing is labelled.

    A share is drawn by traffic: only those rows may estimate quality. The others are where the student is expected to
    be wrong most often, one for many that are alike.
    """
    from limbeck.pipeline import prepare_inputs
    from limbeck.rounds.picks import pick as choose
    from task.errors import InputError
    from task.files import write_jsonl

    if out.exists() and not overwrite:
        raise InputError(
            "the file is there already, and may hold picks that are being labelled", file=out, field="--out",
            fix="Give another name, or add --overwrite",
        )
    begin, end = _period(since, until)
    with opened(task, set_, runs) as run:
        prepare_inputs(run)
        found = choose(run, state, budget=budget, random=random, seed=seed, since=begin, until=end)
        cost = _cost(run, found)
    write_jsonl(out, (p.row() for p in (*found.random, *found.errors)))
    _print_picks(found)
    print(f"{cost}\nPicks: {out}")


Pointer = Annotated[Path, typer.Option(help="The release pointer that the service follows")]
State = Annotated[Path, typer.Option(help="State folder of `limbeck serve`")]
LIVE, STATE = Path("live.json"), Path("limbeck-serve")


@app.command("round", rich_help_panel="Operations")
def round_(
    task: TaskFile,
    pointer: Pointer = LIVE,
    state: State = STATE,
    if_worth: Annotated[
        bool, typer.Option("--if-worth", help="End after drift unless that says that a round is worth its money")
    ] = False,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="End a round that was stopped, so that another can begin")
    ] = False,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Label what the service doubts, train the student again, and release it if it passes its gate and its canary.

    Stopped anywhere, the same command goes on; two at once, the second is refused. Labels cost at most `rounds.labels`
    calls. Exit code 1: the new student was refused, and the old one stays.
    """
    from limbeck.rounds import round as rounds_

    with opened(task, set_, runs) as run:
        done = rounds_.give_up(run) if give_up else rounds_.run_round(
            run, pointer=pointer, state=state, if_worth=if_worth
        )
        _write_page(run)
        run.end()
    assert done.outcome is not None
    print(f"Round {done.number}: {done.outcome.ending}. {done.outcome.why}")
    if done.outcome.ending == "refused":
        raise typer.Exit(1)


@app.command(rich_help_panel="Operations")
def rounds(
    task: TaskFile,
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures here")] = None,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """List the rounds of a task: drift, labels, money, F1 before and after, and how each ended; writes their page."""
    from limbeck.rounds.history import rounds_of
    from limbeck.rounds.view import page_of, table
    from task.files import write_json

    with opened(task, set_, runs) as run:
        page = _write_page(run)
        content = page_of(run.task, rounds_of(run.files.folder))
    if out:
        write_json(out, content)
    print(table(content["rounds"]) if content["rounds"] else "There was no round yet: `limbeck round TASK` runs one.")
    if page is not None:
        print(f"Page: {page}")


@app.command(rich_help_panel="Operations")
def watch(
    task: TaskFile,
    pointer: Pointer = LIVE,
    state: State = STATE,
    every: Annotated[float, typer.Option(help="Hours between two looks at the traffic", min=0.001)] = 24.0,
    set_: Overrides = None,
    runs: Runs = RUNS,
) -> None:
    """Run rounds by itself: where drift says that one is worth its money, and `rounds.every_days` after the last one.

    Stays until it is stopped. What keeps one round from ending is told, and tried again at the next look.
    """
    from limbeck.rounds.watch import watch as stay

    with opened(task, set_, runs) as run:
        stay(run, pointer=pointer, state=state, every_s=every * 3600, tell=_told, ended=lambda: _write_page(run))


def _told(text: str) -> None:
    at = datetime.datetime.now(datetime.UTC)
    print(f"{at:%Y-%m-%d %H:%M:%S} {text}", flush=True)


def _write_page(run: Run) -> Path | None:
    """Write the page of all rounds, beside them; None where there are none."""
    from eval.report import write_rounds
    from limbeck.rounds.folders import rounds_page
    from limbeck.rounds.history import rounds_of
    from limbeck.rounds.view import page_of

    found = rounds_of(run.files.folder)
    if not found:
        return None
    page = rounds_page(run.files.folder)
    write_rounds(page, page_of(run.task, found))
    return page


def _period(since: datetime.datetime | None, until: datetime.datetime | None) -> tuple[float, float]:
    """First and last moment in seconds since 1970."""
    return (
        0.0 if since is None else since.replace(tzinfo=datetime.UTC).timestamp(),
        float("inf") if until is None else until.replace(tzinfo=datetime.UTC).timestamp(),
    )


def _cost(run: Run, found: Picks) -> str:
    from limbeck.labelling_plan import cost_of
    from task.labels import Example

    cost = cost_of(run.task, run, [Example(p.candidate.query) for p in found.new])
    if cost is None:
        return (
            "Cost: unknown; set teacher.openai.price_input_per_million and price_output_per_million, and have the "
            "task's data on this machine."
        )
    return f"Cost: about {cost:,.2f} for {len(found.new):,} labels by the teacher {run.task.teacher.backend!r}."


def _print_picks(found: Picks) -> None:
    from limbeck.rounds.picks import MOST_CANDIDATES

    print(f"{found.candidates:,} distinct queries stand for {found.requests:,.0f} requests.")
    count = sum(p.draws for p in found.random)
    known = sum(p.draws for p in found.random if p.candidate.known)
    print(f"Random draws: {count:,} requests, {known:,} of queries that the run has already.")
    share = f" ({found.covered / found.expected_errors:.0%})" if found.expected_errors else ""
    print(
        f"Expected errors: {len(found.errors):,} picks cover {found.covered:,.1f} of {found.expected_errors:,.1f}"
        f"{share} of the queries that the run lacks."
    )
    if found.considered is not None:
        print(
            f"The {MOST_CANDIDATES:,} queries with the most expected errors were candidates; they have "
            f"{found.considered:,.1f} of these."
        )
    if found.errors:
        print("\n| query | requests | error | expected errors | covers | alike |\n|---|---|---|---|---|---|")
    for p in found.errors[:_SHOWN]:
        c = p.candidate
        said = f", {c.judged} verdicts" if c.judged else ""
        print(
            f"| {c.query} | {c.requests:,.0f} | {c.error:.0%}{said} | {c.expected_errors:,.1f} | "
            f"{p.covers or 0.0:,.1f} | {p.alike} |"
        )
    if len(found.errors) > _SHOWN:
        print(f"… and {len(found.errors) - _SHOWN:,} more")
    print()
