"""`label` in a round: what was picked, and what the catalogue no longer confirms; all other labels stay.

The rows of before are those that the released student was made from. A new verdict on one of their queries replaces
theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from limbeck.rounds.folders import RoundFolder, RoundLabelFolder
from limbeck.rounds.inputs import RoundInputs
from limbeck.run import Run, Shortfall
from limbeck.stage import Figures, Stage
from limbeck.stages import label
from task.files import link_or_copy, sha256_file, sha256_json, write_json, write_jsonl
from task.labels import Example
from task.table_files import rows_of
from teacher.ledger.records import LedgerRow

if TYPE_CHECKING:
    from teacher.backends.job import Sources

_TOO_MANY: Final = 0.5  # of the queries without an answer: a student would be trained again with the others


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a round labels.

    Attributes:
        learned: Picks to learn from.
        drawn: Draws by traffic that have no label yet; nothing is learned from them in this round.
        again: Queries with a label that the guardrails accepted once, and reject with the catalogue of now.
    """

    learned: tuple[Example, ...]
    drawn: tuple[Example, ...]
    again: tuple[Example, ...]

    @property
    def all(self) -> tuple[Example, ...]:
        """Each once."""
        return (*self.learned, *self.drawn, *self.again)


def wanted(run: Run) -> Wanted:
    """What the round is to label; makes no call."""
    files, inputs = _of_round(run)
    old = labels_before(inputs)
    known = {r.query for r in old}
    kinds: dict[str, list[Example]] = {"errors": [], "random": []}
    for _, row in rows_of(files.picks):
        if not row["known"] and row["query"] not in known:
            kinds[row["why"]].append(Example(str(row["query"]), (), int(row["count"])))
    return Wanted(tuple(kinds["errors"]), tuple(kinds["random"]), tuple(_unconfirmed(run, old)))


def sources_for(run: Run, queries: Sequence[Example]) -> Sources:
    """What the teacher may use to label these queries.

    One that looks at the whole log is given all of it: that costs nothing, and only the rows asked for are taken.
    """
    from teacher.backends.backend import backend_of

    log = list(queries)
    if backend_of(run.task).uses_whole_log:
        new = {q.query for q in queries}
        log += [Example(r.query, (), r.count) for r in labels_before(_of_round(run)[1]) if r.query not in new]
    sources = run.inputs.teacher
    return replace(sources, log=log, fingerprint=sha256_json([sources.fingerprint, sorted(q.query for q in log)]))


def labels_before(inputs: RoundInputs) -> list[LedgerRow]:
    """The rows that the round goes on with, one a query."""
    rows = (LedgerRow.from_json(row) for table in inputs.labelled for _, row in rows_of(table))
    return list({row.query: row for row in rows}.values())


def _unconfirmed(run: Run, rows: Iterable[LedgerRow]) -> list[Example]:
    from task.model_store import fetch
    from teacher.guardrails.validator import TeacherAnswer, make_validator

    validator = make_validator(run.task, run.inputs.catalogue, run.files.index, fetch)
    learned = [r for r in rows if r.status in ("accepted", "uncertain") and r.labels]
    run.progress.begin("checking labels against the catalogue", len(learned))
    found = []
    for row in learned:
        answer = TeacherAnswer(query=row.query, request="", labels=[x.to_json() for x in row.labels])
        if validator.row(Example(row.query), answer).status == "partial":
            found.append(Example(row.query, (), row.count))
        run.progress.advance(1)
    return found


def _of_round(run: Run) -> tuple[RoundFolder, RoundInputs]:
    assert isinstance(run.files, RoundFolder)
    assert isinstance(run.inputs, RoundInputs)
    return run.files, run.inputs


def _inputs(run: Run) -> dict[str, str]:
    _, inputs = _of_round(run)
    others = {k: v for k, v in label.STAGE.inputs(run).items() if k != "data"}
    return others | {
        "data": inputs.fingerprint("catalogue", "conversions", "calibration"), "picks": run.digest("picks"),
        "labels of before": sha256_json([sha256_file(p) for p in inputs.labelled]),
    }


def _work(run: Run, folder: Path, paid_before: int) -> Figures:
    from task.model_store import fetch
    from teacher.label import label_queries
    from teacher.ledger.ledger import Ledger

    _, inputs = _of_round(run)
    files, old, these = RoundLabelFolder(folder), labels_before(inputs), wanted(run)
    with Ledger(run.files.ledger) as ledger:
        done = label_queries(
            run.task, sources_for(run, these.all), ledger, run.files.index, fetch, run.progress
        )
        names = {q.query for q in these.all}
        found = {r.query: r for r in done.rows if r.query in names}
        cost = ledger.select("SELECT COALESCE(SUM(cost), 0) FROM attempts WHERE id > ?", [paid_before])[0][0]
        compared = [r.to_json() for r in done.compared]
    again = {q.query for q in these.again}
    rows = [found.get(r.query, r) if r.query in again else r for r in old]
    rows += [found[q.query] for q in these.learned]
    write_jsonl(files.labels, (r.to_json() for r in rows))
    for table, lines in ((files.random, [found[q.query].to_json() for q in these.drawn]), (files.compared, compared)):
        table.unlink(missing_ok=True)  # of an attempt that was killed; a table without rows is an error to its readers
        if lines:
            write_jsonl(table, lines)
    write_json(files.verdicts, done.verdicts)
    _write_confidence(files, inputs.before, None if done.calibration is None else done.calibration.to_json())
    statuses = Counter(r.status for r in found.values())
    return {
        "rows": len(rows), "learned": len(these.learned), "drawn": len(these.drawn), "again": len(again),
        "changed": sum(r.labels != found[r.query].labels for r in old if r.query in again),
        **{s: statuses.get(s, 0) for s in ("accepted", "partial", "uncertain", "failed", "skipped")},
        "cost": round(cost, 6), "cause": done.missing.cause,
    }


def _write_confidence(files: RoundLabelFolder, before: RoundLabelFolder, found: Mapping[str, object] | None) -> None:
    """The calibration of this job, or where there was nothing to calibrate on, that of before."""
    files.confidence.unlink(missing_ok=True)
    if found is not None:
        write_json(files.confidence, found)
    elif before.confidence.exists():
        link_or_copy(before.confidence, target=files.confidence)


def _missing(_run: Run, figures: Figures) -> Shortfall | None:
    """Queries without an answer; the round goes on without them unless most have none."""
    failed, of = figures["failed"], figures["learned"] + figures["drawn"] + figures["again"]
    if not failed:
        return None
    cause = f" (most often: {figures['cause']})" if figures["cause"] else ""
    return Shortfall(
        text=f"{failed:,} of {of:,} queries have no answer{cause}", fails=False, stops=failed > of * _TOO_MANY
    )


def _headline(figures: Figures) -> str:
    return (
        f"{figures['learned']:,} picks and {figures['drawn']:,} draws labelled, {figures['again']:,} labels judged "
        f"again ({figures['changed']:,} changed); {figures['cost']:.2f} spent"
    )


def stage(paid_before: int) -> Stage:
    """The stage.

    Args:
        paid_before: Id of the last attempt in the ledger when the round began; the round has paid for those after it,
            whatever killed it in between.
    """
    return Stage(
        name="label", config=label.STAGE.config, inputs=_inputs, rules=label.STAGE.rules, missing=_missing,
        work=lambda run, folder: _work(run, folder, paid_before), headline=_headline,
        scratch=frozenset({"gold-test.jsonl"}), phase="label",
    )
