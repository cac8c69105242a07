"""`gate` in a round: the new student beside the released one, on gold and on requests drawn from the traffic."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from limbeck.rounds.folders import RoundFolder
from limbeck.rounds.history import Opening
from limbeck.run import Run
from limbeck.stage import Figures, Stage
from task.files import sha256_json, write_json, write_jsonl
from task.labels import Example
from task.normalize import normaliser
from task.table_files import rows_of
from teacher.ledger.records import UNANSWERED, LedgerRow

_JUDGEMENT: Final = "gate.json"  # `RoundFolder.judgement`


def drawn_requests(run: Run) -> list[Example]:
    """The draws by traffic with gold labels, or the teacher's; `count` is how often each was drawn.

    Draws that the teacher gave no answer to are left out, and those whose labels are of a spelling in which they stand
    elsewhere.
    """
    files = run.files
    assert isinstance(files, RoundFolder)
    normalise = normaliser(run.task.normaliser)
    known = {
        normalise(row.query): row.labels for table in (files.label.labels, files.label.random)
        if table.exists() for _, line in rows_of(table) if (row := LedgerRow.from_json(line)).status not in UNANSWERED
    }
    known |= {normalise(x.query): x.labels for x in (*run.inputs.calibration, *run.inputs.test)}
    spelled = {normalise(str(row["query"])): row for _, row in rows_of(files.picks) if row["why"] == "random"}
    out = []
    for text, draw in spelled.items():
        query = str(draw["query"])
        if text in known and all(
            x.start is None or normalise(query[x.start : x.end]) == normalise(x.text) for x in known[text]
        ):
            labels = tuple(x if x.start is None else replace(x, text=query[x.start : x.end]) for x in known[text])
            out.append(Example(query, labels, int(draw["draws"])))
    return out


def gate_stage(opening: Opening) -> Stage:
    """Judge the round's bundle by the task's gates."""

    def work(run: Run, folder: Path) -> Figures:
        from eval.gate import passed
        from limbeck.judging.gate import gate

        gold = run.inputs.source("test")
        if gold is None or run.inputs.verdicts:  # there are rows, `round.check` has seen to it
            gold = folder / "gold.jsonl"
            write_jsonl(gold, (x.to_json() for x in run.inputs.test))
        found = gate(
            run.files.bundle.bundle, gold, run.progress, released_from=opening.pointer, drawn=drawn_requests(run)
        )
        write_json(folder / _JUDGEMENT, {
            "checks": [c.to_json() for c in found.checks], "gold": asdict(found.gold),
            "drawn": None if found.drawn is None else asdict(found.drawn),
        })
        return {"passed": passed(found.checks), "failed": [c.text for c in found.checks if not c.ok]}

    def inputs(run: Run) -> dict[str, str]:
        return {
            "bundle": run.digest("bundle"), "gold": run.inputs.fingerprint("test"),
            "released": sha256_json(opening.student),
        }

    return Stage(
        name="gate", work=work, inputs=inputs,
        config=lambda run: run.task.model_dump(mode="json", include={"gates", "eval"}),
        headline=lambda f: "passed" if f["passed"] else "not passed: " + "; ".join(f["failed"]),
    )
