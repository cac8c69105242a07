"""`limbeck ledger` and `limbeck label --plan`: past attempts and their cost, and what a labelling job would do."""

from __future__ import annotations

import csv
import difflib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.run import Run
from task.errors import InputError
from task.spreadsheet import safe_cell
from task.text import printable
from teacher.backends.job import LabellingPlan, in_all
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import STATUSES, LedgerRow

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_EXPORT_BATCH = 2_000


def open_ledger(run: Run) -> Ledger:
    """The ledger of a task's run folder; an error where there is none."""
    path = run.files.ledger
    if not path.exists():
        fix = "Run `limbeck label TASK` first, with the same --runs"
        raise InputError("there is no ledger yet", file=path, fix=fix)
    return Ledger(path)


def print_overview(ledger: Ledger) -> None:
    """Status of the queries; then totals of the attempts by model, day, purpose and outcome."""
    from rich.console import Console
    from rich.table import Table

    screen = Console()
    table = _table("Queries by status, labelled gold queries among them", "status", "queries", "traffic")
    found = ledger.statuses()
    for status in STATUSES:
        if status in found:
            queries, traffic = found[status]
            table.add_row(status, f"{queries:,}", f"{traffic:,}")
    screen.print(table)
    for by in ("model", "day", "purpose", "outcome"):
        table = Table(title=f"Attempts by {by}", title_justify="left")
        for name in (by, "attempts", "tokens in", "tokens out", "money", "seconds each"):
            table.add_column(name, justify="left" if name == by else "right")
        for row in ledger.costs(by):
            table.add_row(
                _shown(str(row[by])), f"{row['attempts']:,}", f"{row['prompt_tokens']:,}",
                f"{row['completion_tokens']:,}", f"{row['cost']:,.4f}", f"{row['latency_s']:.3f}",
            )
        screen.print(table)


def print_rows(rows: Iterator[LedgerRow], limit: int) -> None:
    """Rows as a table, at most `limit`."""
    from rich.console import Console

    table = _table("", "query", "status", "confidence", "labels", "reason")
    for row in itertools.islice(rows, limit):
        labels = " · ".join(f"{x.role}: {x.text}" for x in row.labels)
        table.add_row(
            _shown(row.query), row.status, f"{row.confidence:.3f}", _shown(labels or "nothing"), _shown(_reason(row))
        )
    Console().print(table)
    if left := sum(1 for _ in rows):
        print(f"{left:,} more: --limit shows them")


def print_query(ledger: Ledger, query: str) -> None:
    """Everything about one query, as JSON lines: its row, then each attempt with evidence and raw reply."""
    row = ledger.rows([query]).get(query)
    if row is None:
        raise InputError("the ledger does not know this query", found=query, fix="Give it exactly as it is in the log")
    print(json.dumps(_record(row) | {"verdicts": list(row.verdicts)}, ensure_ascii=False, indent=2))
    for attempt in ledger.attempts(query):
        print(json.dumps(attempt, ensure_ascii=False, indent=2))


def chosen(
    ledger: Ledger, roles: Sequence[str], *, status: str | None = None, role: str | None = None,
    reason: str | None = None, below: float | None = None,
) -> Iterator[LedgerRow]:
    """Rows that pass every filter given.

    Args:
        roles: Names of the task's roles.

    Raises:
        InputError: There is no such status or role: an empty table would look like an answer.
    """
    _check_name("status", status, STATUSES)
    _check_name("role", role, roles)
    return _passing(ledger, status=status, role=role, reason=reason, below=below)


def _check_name(what: str, given: str | None, names: Sequence[str]) -> None:
    if given is not None and given not in names:
        near = difflib.get_close_matches(given.casefold(), {n.casefold(): n for n in names}, n=1)
        meant = next((n for n in names if near and n.casefold() == near[0]), None)
        raise InputError(
            f"unknown {what}", field=f"--{what}", found=given, expected=f"one of: {', '.join(names)}",
            fix=f"Did you mean `{meant}`?" if meant else None,
        )


def _passing(
    ledger: Ledger, *, status: str | None, role: str | None, reason: str | None, below: float | None
) -> Iterator[LedgerRow]:
    for row in ledger.all_rows():
        if status is not None and row.status != status:
            continue
        if role is not None and all(x.role != role for x in row.labels):
            continue
        if reason is not None and reason not in row.reason and all(reason not in v["reason"] for v in row.verdicts):
            continue
        if below is not None and row.confidence >= below:
            continue
        yield row


def export(rows: Iterator[LedgerRow], path: Path, *, overwrite: bool = False) -> int:
    """Write rows to a Parquet or CSV file, all or nothing; returns how many.

    Read as `data.labels`, each row has the same labels, and a row in doubt stays in doubt. In a CSV file, cells that a
    spreadsheet program would compute have a quote before them, which reading removes (`task.spreadsheet`).

    Raises:
        InputError: The file's name ends otherwise, or it is there already, perhaps with somebody's corrections.
    """
    write = {".parquet": _write_parquet, ".csv": _write_csv}.get(path.suffix)
    if write is None:
        raise InputError(
            "unknown kind of file", field="--export", found=path.name, expected="NAME.parquet or NAME.csv"
        )
    if path.exists() and not overwrite:
        raise InputError(
            "the file is there already, and may hold corrections", file=path, field="--export",
            fix="Give another name, or add --overwrite",
        )
    partial = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        count = write(rows, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write_parquet(rows: Iterator[LedgerRow], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from task.label_table import label_type

    schema = pa.schema([
        ("query", pa.string()), ("count", pa.int64()), ("status", pa.string()), ("reason", pa.string()),
        ("confidence", pa.float64()), ("request", pa.string()), ("labels", pa.list_(label_type())),
    ])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        while part := [_record(r) for r in itertools.islice(rows, _EXPORT_BATCH)]:
            writer.write_table(pa.Table.from_pylist(part, schema))
            count += len(part)
    return count


def _write_csv(rows: Iterator[LedgerRow], path: Path) -> int:
    """UTF-8 with a byte order mark, without which spreadsheet programs guess another encoding."""
    columns = ("query", "count", "status", "reason", "confidence", "request", "labels")
    count = 0
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(columns)
        for row in rows:
            count += 1
            record = _record(row) | {"labels": json.dumps([x.to_json() for x in row.labels], ensure_ascii=False)}
            table.writerow([safe_cell(str(record[c])) for c in columns])
    return count


def print_plan(plan: LabellingPlan) -> None:
    """What `limbeck label` would do now."""
    from rich.console import Console

    table = _table("What `limbeck label` would do", "queries", "what", "because")
    why = "; ".join(f"{n:,} {reason}" for reason, n in (plan.reasons or {}).items())
    table.add_row(f"{len(plan.ask):,}", f"ask again: {plan.spending}", why)
    table.add_row(
        f"{len(plan.revalidate):,}", "validate again: free", "rules, task or catalogue changed, or computed"
    )
    table.add_row(f"{plan.unchanged:,}", "leave as they are", "nothing that they depend on changed")
    screen = Console()
    screen.print(table)
    if plan.ask:
        screen.print(_shown("Asked again, for example: " + "; ".join(plan.ask[:5])))


def print_audit_plan(plans: Mapping[str, LabellingPlan]) -> None:
    """What `limbeck audit-context` would ask now, by variant of the context; a request that two share counts once."""
    from rich.console import Console

    if not plans:
        print("No LLM is asked: the audit costs nothing")
        return
    table = _table("What `limbeck audit-context` would ask", "context", "queries", "what")
    for name, plan in plans.items():
        table.add_row(_shown(name), f"{len(plan.ask):,}", plan.spending)
    Console().print(table)
    print(f"In all {in_all(plans.values()).spending}")


def _shown(text: str) -> Text:
    """A text as it is: brackets in it are no markup."""
    from rich.text import Text

    return Text(printable(text))


def _record(row: LedgerRow) -> dict[str, Any]:
    return row.to_json() | {"reason": _reason(row), "request": row.request}


def _reason(row: LedgerRow) -> str:
    """Why a row has its status; of a partial one, which labels were rejected, each with its reason."""
    rejected = [f"{v['role']}: {v['text']} ({v['reason']})" for v in row.verdicts if v["verdict"] == "rejected"]
    return f"rejected {'; '.join(rejected)}" if row.status == "partial" and rejected else row.reason


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for name in columns:
        right = name in {"queries", "traffic", "confidence"}
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    return table
