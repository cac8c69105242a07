"""Commands that measure: load benchmark, comparison, gate, scoring."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.commands.operations import BundleFolder

if TYPE_CHECKING:
    from eval.latency_schema import LatencyBench, LatencyHead, SloCheck
    from limbeck.judging.gate import Judgement

app = typer.Typer()
PANEL = "Measuring"
_PERCENTILES = ("p50", "p95", "p99")
_MUCH_LESS = 0.95  # of the offered rate: fewer answers need an explanation


@app.command(rich_help_panel=PANEL)
def bench(
    url: Annotated[str, typer.Argument(help="Where the server listens, such as http://127.0.0.1:8080")],
    queries: Annotated[Path, typer.Option("--queries", help="A file of queries to send; some hundred at least")],
    hits: Annotated[Path | None, typer.Option(help="Queries that the cache may answer")] = None,
    hit_share: Annotated[float, typer.Option(help="Share of requests that use --hits", min=0.0, max=1.0)] = 0.0,
    rate: Annotated[float, typer.Option(help="Requests per second", min=0.01)] = 16.0,
    ramp_to: Annotated[float | None, typer.Option(help="Increase the rate linearly to this one", min=0.01)] = None,
    seconds: Annotated[float, typer.Option(help="Duration of a run", min=0.5)] = 60.0,
    repeats: Annotated[
        int, typer.Option(help="Number of runs; from five on, intervals include the variation between runs", min=1)
    ] = 5,
    sweep: Annotated[float, typer.Option(help="Seconds at each rate, in search of the highest sustained one", min=0.0)]
    = 0.0,
    replay: Annotated[
        Path | None, typer.Option(help='A traffic log, rows {"query", "at"}, replayed with its own timing')
    ] = None,
    speed: Annotated[float, typer.Option(help="Speed-up of the replay", min=0.001)] = 1.0,
    slo_ms: Annotated[float | None, typer.Option(
        "--slo-ms", help="Latency target (SLO), for the upper bound of the percentile's interval", min=0.001,
    )] = None,
    percentile: Annotated[str, typer.Option(help="The percentile that the SLO limits: p50, p95 or p99")] = "p99",
    api: Annotated[str, typer.Option(help="`label`: our gateway; `chat`: any server with OpenAI's chat completions")]
    = "label",
    model: Annotated[str, typer.Option(help="Model name, for `chat`")] = "student",
    instruction: Annotated[str, typer.Option(help="System message, for `chat`")] = "",
    extra: Annotated[str, typer.Option(help="JSON to put into every body, such as '{\"max_tokens\": 64}'")] = "{}",
    key: Annotated[str | None, typer.Option(envvar="LIMBECK_API_KEY", help="API key of the server")] = None,
    processes: Annotated[int | None, typer.Option(help="Of the load generator; default: as many as needed", min=1)]
    = None,
    seed: Annotated[int, typer.Option(help="Seed of the arrival times")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Write bench.json, bench.html and samples.npz here")]
    = None,
) -> None:
    """Benchmark a server's latency with open-loop load: Poisson arrivals, latency counted from the scheduled time.

    Single requests, cold and repeated; then steady runs; with --sweep, runs at rising rates. Exit code 3: the
    measurement is invalid; 1: the SLO is missed; 2: no request was answered.
    """
    from eval import arrivals
    from eval.bench import Settings
    from eval.bench import bench as measure
    from eval.endpoint import PATHS, Target
    from eval.report import write_bench
    from limbeck.progress_display import ProgressDisplay
    from task.errors import IncompleteError, InputError
    from task.files import write_json
    from task.readers import read_queries

    if api not in PATHS:
        raise InputError("no such API", field="--api", found=api, expected="one of: " + ", ".join(PATHS))
    if percentile not in _PERCENTILES:
        raise InputError(
            "no such percentile", field="--percentile", found=percentile, expected="one of: " + ", ".join(_PERCENTILES)
        )
    target = Target(url.rstrip("/"), api, model, instruction, _object(extra), key)
    with ProgressDisplay() as progress:
        found = measure(target, [q.query for q in read_queries(queries)], Settings(
            rate=rate, ramp_to=ramp_to, seconds=seconds, repeats=repeats, hit_share=hit_share if hits else 0.0,
            slo_ms=slo_ms, percentile=percentile, sweep_seconds=sweep, processes=processes, seed=seed,
            plan=arrivals.replay(replay, speed) if replay else None,
        ), [q.query for q in read_queries(hits)] if hits else [], progress)
    if out:
        write_json(out, found.figures)
    if folder:
        write_bench(folder, found.figures, found.samples)
    _print_bench(found.figures)
    if folder:
        print(f"\nReport: {folder / 'bench.html'}")
    blended = found.figures["steady"]["blended"]
    if blended["errors"]:
        print(f"{blended['errors']:,} of {blended['count']:,} requests got no answer: they count as infinitely slow")
    if blended["errors"] >= blended["count"]:
        raise IncompleteError(f"no request of the steady runs was answered by {url}")
    if not found.figures["steady"]["valid"]:
        raise typer.Exit(3)
    met = found.figures["slo"]
    if met is not None and met["measured"] is None:
        raise typer.Exit(3)
    if met is not None and not met["ok"]:
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def compare(
    systems: Annotated[
        list[str], typer.Argument(metavar="SYSTEM…", help="Bundles, URLs of services, prediction files; NAME=SOURCE")
    ],
    gold: Annotated[Path, typer.Option("--gold", help="Gold labels, the queries to ask")],
    pairs: Annotated[int, typer.Option(help="Queries for the interleaved latency measurement", min=0)] = 200,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples", min=1)] = 10_000,
    folder: Annotated[Path, typer.Option("--out", help="Write comparison.json, .html and .md here")]
    = Path("limbeck-comparison"),
) -> None:
    """Compare systems on the same queries: paired differences in quality, interleaved latency, Pareto front.

    Every system is compared with the first.
    """
    from eval.report import write_comparison
    from eval.report_schema import refuse_report
    from limbeck.judging.compare import compare as measure
    from limbeck.judging.compare import named
    from limbeck.progress_display import ProgressDisplay

    given = named(systems)
    for system in given:
        refuse_report(Path(system.source), field="SYSTEM", expected="a bundle folder, a URL or a file of predictions")
    with ProgressDisplay() as progress:
        found = measure(given, gold, progress, resamples=resamples, pairs=pairs)
    write_comparison(folder, found)
    print((folder / "comparison.md").read_text(encoding="utf-8"))
    print(f"Report: {folder / 'comparison.html'}")


@app.command(rich_help_panel=PANEL)
def gate(
    folder: BundleFolder,
    gold: Annotated[Path, typer.Option("--gold", help="Gold labels that were not used for training")],
    teacher: Annotated[
        Path | None, typer.Option(help="The teacher's labels of these queries; default: those of the bundle's run")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="The query log, for rules by traffic slice; default: the run's")
    ] = None,
    released: Annotated[
        Path | None, typer.Option(help="The bundle that is released now, or the pointer to it")
    ] = None,
    pairs: Annotated[
        int, typer.Option(help="Queries for the interleaved latency comparison with the released bundle", min=20)
    ] = 300,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="gates.A=B", help="Override a gate, which the verdict names; repeatable"),
    ] = None,
    xml: Annotated[Path | None, typer.Option("--junit", help="Write the checks as JUnit XML")] = None,
) -> None:
    """Serve a bundle and check the rules of its task's `gates`; only a bundle that passes can be released.

    The result is written into the bundle's manifest. Exit code 1: a rule does not hold.
    """
    from eval.gate import junit, passed
    from eval.report_schema import refuse_report
    from limbeck.judging.gate import gate as judge
    from limbeck.progress_display import ProgressDisplay
    from task.files import write_text

    for field, path, expected in (
        ("--gold", gold, "gold labels"), ("--teacher", teacher, "the teacher's labels"), ("--log", log, "a query log"),
        ("--released", released, "a bundle folder or a release pointer"),
    ):
        if path is not None:
            refuse_report(path, field=field, expected=expected)
    with ProgressDisplay() as progress:
        found = judge(
            folder, gold, progress, overrides=set_ or (), teacher_file=teacher, log_file=log, released_from=released,
            pairs=pairs,
        )
    if xml:
        write_text(xml, junit(found.checks, f"gate of {folder}"))
    _print_checks(found)
    if not passed(found.checks):
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def score(
    gold: Annotated[Path, typer.Argument(help="Gold labels")],
    predictions: Annotated[Path, typer.Argument(help="Predictions for the same queries")],
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures here, roles and slices too")] = None,
    by: Annotated[list[str] | None, typer.Option(help="A column of the gold file to slice by; repeatable")] = None,
    annotations: Annotated[
        list[Path] | None, typer.Option("--person", help="Labels by one annotator, for their agreement; repeatable")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples", min=1)] = 10_000,
) -> None:
    """Precision, recall and F1 of a prediction file, with intervals.

    Rows are matched by query; a gold query without a prediction counts as an empty answer, and so does one whose
    prediction is not a valid labelling.
    """
    from eval.matching import SCHEMES
    from eval.report_schema import refuse_report
    from eval.score import score_files
    from task.files import write_json

    refuse_report(predictions, field="PREDICTIONS", expected="a file of predictions")
    found = score_files(
        gold, predictions, resamples=resamples, by=by or (), annotations=annotations or ()
    )
    if out:
        write_json(out, found)
    if found["missing"]:
        print(f"{found['missing']:,} of {found['rows']:,} gold queries have no prediction: they count as empty answers",
              file=sys.stderr)
    people = {"people": found["people"]} if found["people"] else {}
    print(json.dumps({
        "rows": found["rows"], "missing": found["missing"], "invalid": found.get("invalid"),
        "invalid_kinds": found.get("invalid_kinds"),
        "hallucinated": found["hallucinated"], **people,
        **{scheme: {k: v for k, v in found[scheme].items() if k != "roles"} for scheme in SCHEMES},
    }, indent=2))


def _object(text: str) -> dict[str, Any]:
    from task.errors import InputError

    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError("not a JSON object", field="--extra", found=text, expected='such as {"max_tokens": 64}')
    return found


def _print_bench(found: LatencyBench) -> None:
    from rich.console import Console
    from rich.table import Table

    from eval.formatting import milliseconds
    from eval.latency_schema import percentile_of

    steady = found["steady"]
    table = Table("milliseconds", "requests", "errors", *_PERCENTILES, title=found["url"], title_justify="left")
    for name, group in (
        ("cache hit", steady.get("hit")), ("student", steady.get("miss")), ("all", steady["blended"]),
        ("one at a time, cold", found["cold"]), ("one at a time, asked before", found["warm_prefix"]),
        ("time to first token", steady.get("ttft")), ("time per output token", steady.get("tpot")),
    ):
        if group and group["count"]:
            table.add_row(name, f"{group['count']:,}", str(group["errors"]),
                          *(milliseconds(percentile_of(group, p)) for p in _PERCENTILES))
    screen = Console()
    screen.print(table)
    said = [rates_line(steady)]
    said += [f"✗ the measurement is not valid: {steady['problem']}"] if steady["problem"] else []
    said += ["✗ the server is saturated at this rate"] if steady["saturated"] else []
    invalid = steady.get("invalid_answers", 0)
    said += [f"✗ {invalid:,} of {steady['requests']:,} answers are invalid: they have no labels"] if invalid else []
    if found["sweep"]:
        limit = found["sweep"]["limit"]
        said.append(
            f"highest sustained rate: {found['sweep']['sustained'] or 'none'}/s"
            + (f", limited by the {limit}" if limit else "")
        )
    if found["slo"] and not steady["problem"]:
        said.append(slo_line(found["slo"], steady["requests"]))
    screen.print("\n".join(said), highlight=False)


def rates_line(steady: LatencyHead) -> str:
    """What was offered, due and answered, and why fewer were answered where none failed and none was slow."""
    offered, answered = steady["offered_rate"], steady["achieved_rate"]
    due = steady["requests"] / max(steady["seconds"], 1e-9)
    said = (
        f"{offered:.4g}/s offered, {steady['requests']:,} requests due in {steady['seconds']:.4g} s ({due:.4g}/s), "
        f"{answered:.4g}/s answered, {100 * steady['sent_in_time']:.2f} % left on time"
    )
    if answered < _MUCH_LESS * offered and not steady["saturated"]:
        said += (
            ". Arrivals are random, so a short run has more or fewer than offered, and it lasts until its last answer: "
            "a longer one (--seconds) comes closer"
        )
    return said


def slo_line(slo: SloCheck, requests: int) -> str:
    """Whether the objective is met: by the upper bound of the interval."""
    from eval.formatting import beside, milliseconds
    from eval.latency import MIN_SAMPLES

    name = slo["percentile"]
    needed = MIN_SAMPLES[name]
    if slo["measured"] is None:
        return (
            f"✗ whether the {name} is at most {slo['ms']:g} ms cannot be said: {requests:,} requests were measured, "
            f"and a {name} needs {needed:,}. Raise --seconds or --repeats"
        )
    mark = "✓" if slo["ok"] else "✗"
    high = slo["measured"]["high"]
    bound = "which these requests do not bound" if high is None else f"{beside(high, slo['ms'])} ms"
    return (
        f"{mark} {name} of all requests {milliseconds(slo['measured'])} ms, objective: at most {slo['ms']:g} ms, "
        f"judged by the upper bound of the interval, {bound}"
    )


def _print_checks(found: Judgement) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "rule", "found", "asked for")
    for c in found.checks:
        table.add_row("[green]✓[/]" if c.ok else "[red]✗[/]", c.rule, c.found, c.asked)
    Console().print(table)
    print(gate_line(found))


def gate_line(found: Judgement) -> str:
    """Whether it passed, and the rules that were taken in place of the bundle's own."""
    from serving.release.verdict import in_words

    failed = sum(not c.ok for c in found.checks)
    said = f"failed: {failed} of {len(found.checks)} rules" if failed else "passed"
    return f"{said}, with {in_words(found.overrides)}" if found.overrides else said
