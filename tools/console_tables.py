"""The table of `benchmarks/console.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from eval.formatting import milliseconds
from tools.table_text import read, table

_PAGES: Final = {
    "all": "any", "no text": "without a text", "text": "with a text", "everything": "of everything at once",
}
_WHERE: Final = {
    "index": "of the index", "console": "of the console, as HTML", "following": "the same while a job changes a tenth",
}


def label_list(result: Path) -> str:
    """Latency of pages of the label list, and what its index takes."""
    r = read(result)
    rows = [
        (where, pages, f"{(x := r[name][kind])['count']:,}", *(_cell(x[p]) for p in ("p50_ms", "p95_ms", "p99_ms")),
         f"{r[name]['peak_mb']:,}" if kind == "all" else "")
        for name, where in _WHERE.items() for kind, pages in _PAGES.items()
    ]
    head = ("page", "filter", "requests", "p50, ms", "p95, ms", "p99, ms", "peak memory, MB")
    b = r["build"]
    said = (
        f"{r['rows']:,} rows, a ledger of {r['ledger_mb']:,} MB; {r['device']['cpu']}, {r['device']['cores']} cores, "
        f"commit {r['git'][:7]}. The index is made in {b['seconds']:,.0f} s ({b['cpu_s']:,.0f} s of CPU time) with "
        f"{b['peak_mb']:,} MB of memory and takes {b['disk_mb']:,} MB; to see that nothing has changed takes "
        f"{1_000 * b['unchanged_cpu_s']:,.0f} ms. A page of the index takes {r['index']['cpu_ms']:,.0f} ms of CPU time."
    )
    return f"{table(head, rows)}\n\n{said}"


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{milliseconds(found['value'])} [{milliseconds(found['low'])}, {milliseconds(found['high'])}]"
