"""`drift` and `picks` of a round: what its service captured, judged and picked from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from limbeck.rounds.drift import drift
from limbeck.rounds.history import Opening
from limbeck.rounds.picks import pick
from limbeck.run import Run
from limbeck.stage import Figures, Stage
from task.captures import FOLDER, read_captures
from task.errors import InputError
from task.files import write_json, write_jsonl

_DAY: Final = 86_400.0
_DRIFT, _PICKS = "drift.json", "picks.jsonl"  # `RoundFolder.verdict` and `.picks`


def drift_stage(opening: Opening) -> Stage:
    """Judge the last days before the round; what keeps that from being measured is noted and ends nothing."""

    def work(run: Run, folder: Path) -> Figures:
        from serving.telemetry.drift_gauges import publish

        since = opening.until - run.task.rounds.days * _DAY
        run.progress.begin("measuring drift")
        try:
            found = drift(run, opening.state, since=since, until=opening.until)
        except InputError as error:
            sentence = f"drift is not measured: {error.problem}"
            write_json(folder / _DRIFT, {"round": None, "sentence": sentence})
            return {"round": None, "sentence": sentence}
        write_json(folder / _DRIFT, found)
        publish(opening.state, run.task.name, found)
        return {"round": found["round"], "sentence": found["sentence"]}

    return Stage(
        name="drift", work=work, headline=lambda f: str(f["sentence"]), inputs=lambda _run: {},
        config=lambda run: {"until": opening.until, "rounds": {"days": run.task.rounds.days}},
    )


def picks_stage(opening: Opening, number: int) -> Stage:
    """Pick queries among the captures since the round that made the released student.

    Args:
        number: Of the round; the draws of each round are others.
    """

    def work(run: Run, folder: Path) -> Figures:
        settings = run.task.rounds
        captures = read_captures(opening.state / FOLDER, since=opening.since, until=opening.until)
        if not any(c.task == run.task.name for c in captures):
            return {"new": 0}
        found = pick(
            run, opening.state, budget=settings.labels, random=settings.random, seed=number, since=opening.since,
            until=opening.until,
        )
        write_jsonl(folder / _PICKS, (p.row() for p in (*found.random, *found.errors)))
        return {
            "errors": len(found.errors), "random": sum(p.draws for p in found.random), "new": len(found.new),
            "candidates": found.candidates, "requests": round(found.requests), "covered": round(found.covered, 1),
            "expected_errors": round(found.expected_errors, 1),
        }

    return Stage(
        name="picks", work=work, inputs=lambda _run: {},
        config=lambda run: {
            "since": opening.since, "until": opening.until,
            "rounds": run.task.rounds.model_dump(mode="json", include={"labels", "random"}),
        },
        headline=lambda f: "no captures" if not f["new"] else (
            f"{f['errors']:,} picks cover {f['covered']:,.0f} of {f['expected_errors']:,.0f} expected errors; "
            f"{f['random']:,} draws of {f['requests']:,} requests; {f['new']:,} new labels"
        ),
    )
