"""Keep a run's report as a benchmark result: `python tools/keep_result.py RUN_FOLDER NAME`.

Writes benchmarks/results/NAME.json: the report without the learning curve and the single errors, then the docs' tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Copy and trim; returns the exit code."""
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    report = json.loads((Path(sys.argv[1]) / "evaluate" / "report.json").read_text(encoding="utf-8"))
    for name in ("history", "errors"):
        report.pop(name)
    target = ROOT / "benchmarks" / "results" / f"{sys.argv[2]}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return subprocess.run([sys.executable, "tools/update_docs.py"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
