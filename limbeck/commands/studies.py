"""The commands of studies: effects of context and rewrites, answer forms, row orders, adapters and compositions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.commands.options import LISTED, RUNS, Overrides, Runs, TaskFile, listed, opened

app = typer.Typer()


@app.command("audit-context", rich_help_panel="Studies")
def audit_context(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    gold: Annotated[str, typer.Option(help="Which gold rows: `calibration`, or `test` (for a final check only)")]
    = "calibration",
    plan_only: Annotated[bool, typer.Option("--plan", help="Only show what an LLM would be asked, and the cost")]
    = False,
) -> None:
    """Ablate the retrieved context: the teacher with and without each kind, on gold, by slice.

    An LLM is asked once per kind and gold query; the replies stay in the ledger. The cost is said before. Exit code 1:
    some have no answer; the same command asks these again.
    """
    from limbeck.operations.ledger_view import print_audit_plan
    from limbeck.operations.tables import render_audit
    from limbeck.pipeline import prepare_inputs
    from limbeck.studies.context_audit import audit, plan

    with opened(task, set_, runs) as run:
        prepare_inputs(run)
        if plan_only:
            found = plan(run, gold)
        else:
            page = audit(run, gold)
    if plan_only:
        print_audit_plan(found)
        return
    print(render_audit(page.with_name("audit.json")))
    print(f"\nReport: {page}")
    run.end()


@app.command(rich_help_panel="Studies")
def rewrites(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    predictions: Annotated[
        Path | None, typer.Option(help="Rows with rewrites, as `predict` writes them; default: the teacher's labels")
    ] = None,
    search: Annotated[str, typer.Option(help="How items are searched: `bm25` or `hybrid`")] = "bm25",
) -> None:
    """Measure what rewrites are worth: precision, coverage, and bought items that the query's own words do not find."""
    from limbeck.pipeline import prepare_inputs
    from limbeck.studies.rewrites import render
    from limbeck.studies.rewrites import rewrites as measure

    with opened(task, set_, runs) as run:
        prepare_inputs(run)
        path = measure(run, predictions, search)
    print(render(path))
    print(f"\n{path}")
    run.end()


@app.command(rich_help_panel="Studies")
def forms(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    steps: Annotated[int | None, typer.Option(help="Training steps of every form; default: the task's", min=1)] = None,
) -> None:
    """Train the same student to answer in all three forms (`read`, `write`, `json`) and compare F1 and latency."""
    from limbeck.pipeline import run_up_to
    from limbeck.studies.answer_forms import compare

    with opened(task, set_, runs) as run:
        run_up_to(run, "curriculum")
        path = compare(run, steps)
    print(path)
    run.end()


@app.command(rich_help_panel="Studies")
def ablate(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    order: Annotated[list[str] | None, typer.Option(help=f"Orders to compare{LISTED}; default: all four")] = None,
    weighting: Annotated[
        list[str] | None, typer.Option(help=f"`none`, `confidence`{LISTED}; default: both")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each", min=1)] = 3,
    steps: Annotated[int | None, typer.Option(help="Training steps of each; default: the task's", min=1)] = None,
) -> None:
    """Ablate the curriculum: row order and weighting by confidence, over seeds.

    `shuffled` may be the best order. A variant that has been trained already is not trained again.
    """
    from limbeck.operations.tables import render_ablation
    from limbeck.pipeline import run_up_to
    from limbeck.studies.ablate import ORDERS, WEIGHTINGS, check
    from limbeck.studies.ablate import ablate as compare

    orders = listed("--order", order, str, "an order")
    weightings = listed("--weighting", weighting, str, "a weighting")
    with opened(task, set_, runs) as run:
        check(orders, weightings)
        run_up_to(run, "curriculum")
        page = compare(run, orders=orders or ORDERS, weightings=weightings or WEIGHTINGS, seeds=seeds, steps=steps)
    print(render_ablation(page.with_name("ablation.json")))
    print(f"\nReport: {page}")
    run.end()


@app.command(rich_help_panel="Studies")
def sweep(
    task: TaskFile,
    set_: Overrides = None,
    runs: Runs = RUNS,
    rank: Annotated[
        list[str] | None, typer.Option(metavar="INTEGER", help=f"Ranks to try{LISTED}; default: 4,8,16,32")
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(help=f"`attention`, `mlp`, `all-linear` or layers joined by `+`{LISTED}; default: these three"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each; default: the task's", min=1)] = None,
    margin: Annotated[
        float, typer.Option(help="F1 by which it may be worse than the best; 0.01 is one point", min=0.0, max=1.0)
    ] = 0.01,
) -> None:
    """Search LoRA ranks and target layers on Ray Tune; recommends the smallest adapter not worse than the best.

    That is one whose whole interval of ΔF1 lies above minus the margin; where none is shown to be that good, the best.
    """
    from limbeck.operations.tables import render_sweep
    from limbeck.pipeline import run_up_to
    from limbeck.studies.sweep import check
    from limbeck.studies.sweep import sweep as try_all

    ranks = listed("--rank", rank, int, "a whole number") or [4, 8, 16, 32]
    groups = listed("--targets", targets, str, "a group or layers") or ["attention", "mlp", "all-linear"]
    with opened(task, set_, runs) as run:
        check(run.task, ranks=ranks, targets=groups)
        run_up_to(run, "curriculum")
        run.progress.stage("sweep", 1, 1)
        page = try_all(run, ranks=ranks, targets=groups, steps=steps, margin=margin)
    print(render_sweep(page.with_name("sweep.json")))
    print(f"\nReport: {page}")
    run.end()


@app.command(rich_help_panel="Studies")
def compose(
    tasks: Annotated[list[Path], typer.Argument(metavar="TASK TASK…", help="Task files whose students are trained")],
    runs: Runs = RUNS,
    method: Annotated[
        list[str] | None, typer.Option(help=f"linear, ties, dare_linear, dare_ties, cat{LISTED}; default: all but cat")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(metavar="FLOAT", help=f"One for each task{LISTED}; default: equal weights")
    ] = None,
    density: Annotated[float, typer.Option(help="Share of an adapter that TIES and DARE keep", min=0.01, max=1)] = 0.5,
    max_rows: Annotated[int | None, typer.Option(help="Maximum number of gold rows of each task", min=1)] = None,
) -> None:
    """Compose the adapters of several tasks into one, and measure the loss on each task."""
    from limbeck.operations.tables import render_composition
    from limbeck.pipeline import prepare_inputs
    from limbeck.progress_display import ProgressDisplay
    from limbeck.run import Run
    from limbeck.studies.compose import compose as put_together
    from task.load import load_task

    methods = listed("--method", method, str, "a method")
    weights = listed("--weight", weight, float, "a number")
    with ProgressDisplay() as progress:
        opened_runs = [Run.of(load_task(t, ()).task, runs, progress) for t in tasks]
        for run in opened_runs:
            prepare_inputs(run)
        page = put_together(
            opened_runs, methods=methods or ("linear", "ties", "dare_linear", "dare_ties"), weights=weights or None,
            density=density, max_rows=max_rows,
        )
    print(render_composition(page.with_name("composition.json")))
    print(f"\nReport: {page}")
