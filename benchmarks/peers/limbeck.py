"""Limbeck's own labelling job, for benchmarks/labelling.py: URL ROWS IN_FLIGHT FOLDER OUT."""

import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from task.labels import Example
from task.spec import Task
from teacher.backends.job import Sources
from teacher.backends.llm import online  # noqa: F401  (imported before the clock starts, like the peers' libraries)
from teacher.label import label_queries
from teacher.ledger.ledger import Ledger

url, rows, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
folder, out = Path(sys.argv[4]), Path(sys.argv[5])
prompt = folder / "prompt.j2"
prompt.write_text('Label the query. Answer with JSON: {"labels": [{"role": "product", "text": "..."}]}\n')
task = Task.model_validate({
    "name": "bench", "roles": [{"name": "product"}], "data": {"dir": ".", "queries": "none"},
    "teacher": {"backend": "openai", "openai": {
        "base_url": url, "model": "m", "prompt": str(prompt), "concurrency": in_flight, "timeout_s": 60.0,
    }},
})
log = [Example(f"query{i} milk") for i in range(rows)]
usage = resource.getrusage(resource.RUSAGE_SELF)
started = time.perf_counter()
with Ledger(folder / "ledger.sqlite") as ledger:
    done = label_queries(task, Sources(log), ledger, folder, Path)
    seconds = time.perf_counter() - started
    accepted = done.statuses.get("accepted", 0)
out.write_text(json.dumps({"seconds": seconds, "rows": accepted, "idle_cpu_s": usage.ru_utime + usage.ru_stime}))
