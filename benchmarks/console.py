"""The label list of the console over a million rows: building the index, and any page of any filter.

    python -m benchmarks.console [--rows 1000000] [--work runs/console] [--filters 150]

A made-up ledger (`benchmarks.console_ledger`, kept in the work folder) is indexed in a process of its own. Then filters
are drawn: each of status, role, value, reason, confidence, traffic, reviewed and text (of one letter up to several
words, in three scripts) with its own probability; one in ten is a combination of everything that most rows pass. Of
each the first page is asked for, two pages forwards and one back, in a random order of the rows; the same pages

- of the index in one process (`index`),
- of `limbeck console` over HTTP, as a browser gets them (`console`),
- of that while a job writes a tenth of the rows again and the index follows (`following`).

Expected: every page under 200 ms at the 95th percentile on two cores, since all columns that a filter needs are some 60
MB, which are read and compared at 1 GB/s; pages without a text in half of that; while the index follows, twice as much.
Peak memory below 200 MB in each process. Writes benchmarks/results/console.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from benchmarks.console_ledger import SEED, Words, made_rows, write_ledger
from eval.latency import percentiles
from limbeck.artefacts import RunFolder
from limbeck.console.label_filter import ORDERS, LabelFilter
from limbeck.console.label_index import LabelIndex
from limbeck.environment import device, git_commit, versions
from task.files import write_json
from task.spec import Task
from teacher.ledger.ledger import Ledger
from teacher.ledger.records import STATUSES

RESULT: Final = Path(__file__).parent / "results" / "console.json"
LIMIT: Final = 50
_TEXTS: Final = ("a", "e", "ba", "25", " 1", "牛", "牛奶", "молоко", "S 2", "green", "250ml", "mi la", "qx")
Ask = Callable[[LabelFilter, dict[str, str]], dict[str, str | None]]


def main() -> None:
    """Build and measure; or one of the steps, in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=Path("runs/console"))
    parser.add_argument("--filters", type=int, default=150)
    parser.add_argument("--step", choices=["build", "index", "write"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    run = RunFolder(options.work / f"rows-{options.rows}")
    if options.step == "build":
        print(json.dumps(build(run)))
    elif options.step == "index":
        print(json.dumps(pages_of_index(run, options.filters)))
    elif options.step == "write":
        write_again(run, options.rows // 10)
    else:
        measure(run, options.rows, options.work, options.filters)


def measure(run: RunFolder, rows: int, work: Path, filters: int) -> None:
    """All steps, and the result."""
    if not run.ledger.exists():
        run.folder.mkdir(parents=True, exist_ok=True)
        write_ledger(run.ledger, rows)
    write_json(run.folder / "task.json", made_task().model_dump(mode="json"))
    found: dict[str, Any] = {"rows": rows, "filters": filters, "ledger_mb": _megabytes(run.ledger)}
    found["build"] = _step("build", rows, work, filters)
    found["index"] = _step("index", rows, work, filters)
    with started_console(work) as (address, pid):
        ask = over_http(address, run)
        ask(LabelFilter(), {})
        found["console"] = {**timed(ask, filters), "peak_mb": peak_mb(pid)}
        command = [sys.executable, "-m", "benchmarks.console", "--rows", str(rows), "--work", str(work)]
        with subprocess.Popen([*command, "--step", "write"]) as job:
            found["following"] = {**timed(ask, filters), "written_meanwhile": job.poll() is not None}
        found["following"]["peak_mb"] = peak_mb(pid)
    write_json(RESULT, {**found, "versions": versions(), "device": device(), "git": git_commit()})
    print(RESULT)


def _step(name: str, rows: int, work: Path, filters: int) -> Any:
    command = [sys.executable, "-m", "benchmarks.console", "--rows", str(rows), "--work", str(work)]
    done = subprocess.run(
        [*command, "--filters", str(filters), "--step", name], stdout=subprocess.PIPE, text=True, check=True
    )
    print(name, done.stdout, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def build(run: RunFolder) -> dict[str, Any]:
    """Make the index anew."""
    for file in run.folder.joinpath("console").glob("labels.sqlite*"):
        file.unlink()
    started, cpu = time.monotonic(), time.process_time()
    index = LabelIndex(run)
    index.update()
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    again = time.process_time()
    index.update()
    return {
        "seconds": round(seconds, 1), "cpu_s": round(cpu, 1), "unchanged_cpu_s": round(time.process_time() - again, 3),
        "peak_mb": peak_mb("self"), "disk_mb": _megabytes(index.path),
    }


def pages_of_index(run: RunFolder, filters: int) -> dict[str, Any]:
    """The pages, without HTTP and HTML."""
    index = LabelIndex(run)

    def ask(wanted: LabelFilter, cursor: dict[str, str]) -> dict[str, str | None]:
        page = index.page(wanted, **cursor, limit=LIMIT)
        return {"after": page.next, "before": page.previous}

    cpu = time.process_time()
    found = timed(ask, filters)
    number = found["all"]["count"]
    return {**found, "cpu_ms": round(1_000 * (time.process_time() - cpu) / number, 1), "peak_mb": peak_mb("self")}


def timed(ask: Ask, filters: int) -> dict[str, Any]:
    """Latency of all pages, of those with a text to search for, and of those that are most to do."""
    rng, words = random.Random(SEED), Words(SEED)
    seconds: dict[str, list[float]] = {"all": [], "text": [], "no text": [], "everything": []}
    for i in range(filters):
        everything = i % 10 == 9
        wanted = unselective(rng) if everything else drawn(rng, words)
        cursor: dict[str, str] = {}
        for way in ("after", "after", "before", ""):
            started = time.perf_counter()
            found = ask(wanted, cursor)
            took = time.perf_counter() - started
            for name in ("all", "text" if wanted.text else "no text", *(["everything"] if everything else [])):
                seconds[name].append(took)
            if not way or (to := found[way]) is None:
                break
            cursor = {way: to}
    return {name: percentiles(x) for name, x in seconds.items()}


def drawn(rng: random.Random, words: Words) -> LabelFilter:
    """A filter that somebody could set."""
    given: dict[str, Any] = {"order": rng.choice(ORDERS), "reverse": rng.random() < 0.2, "seed": rng.randrange(10)}
    if rng.random() < 0.4:
        given["status"] = tuple(rng.sample(STATUSES, rng.randint(1, 3)))
    if rng.random() < 0.4:
        given["role"] = rng.choice(("brand", "product", "size", "colour", "aisle", "mark"))
        if rng.random() < 0.5:
            of = {"brand": words.brands, "product": words.products, "aisle": words.aisles}
            given["value"] = rng.choice(of.get(given["role"], ["250ml"]))
    if rng.random() < 0.15:
        given["reason"] = rng.choice(("span: moved", "pattern: does not match", "no usable reply"))
    if rng.random() < 0.3:
        low = rng.random()
        given |= {"confidence_from": low, "confidence_to": low + (1 - low) * rng.random()}
    if rng.random() < 0.3:
        given["count_from"] = rng.choice((1, 2, 10, 1_000))
    if rng.random() < 0.2:
        given["reviewed"] = rng.random() < 0.2
    if rng.random() < 0.5:
        given["text"] = rng.choice((*_TEXTS, rng.choice(words.products), rng.choice(words.brands)[:3]))
    return LabelFilter(**given)


def unselective(rng: random.Random) -> LabelFilter:
    """Everything is looked at, and most rows pass each part."""
    return LabelFilter(
        status=("accepted", "partial", "uncertain"), role="product", confidence_from=0.01, count_from=1, reviewed=False,
        text=rng.choice(("a", "s", "o")), order=rng.choice(ORDERS),
    )


def over_http(address: str, run: RunFolder) -> Ask:
    """Pages of a console through one connection, as a browser gets them."""
    parts = urlsplit(address)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=60)
    path = f"/runs/{quote(run.folder.name)}/labels"

    def ask(wanted: LabelFilter, cursor: dict[str, str]) -> dict[str, str | None]:
        connection.request("GET", f"{path}?{wanted.to_query()}&{urlencode(cursor)}")
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {body[:500]}")
        return {way: _link(body, way) for way in ("after", "before")}

    return ask


def _link(body: str, way: str) -> str | None:
    """The cursor of the page's link to another page."""
    _, found, rest = body.partition(f";{way}=")
    return rest.partition('"')[0].partition("&")[0] if found else None


@contextmanager
def started_console(work: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a console over the run folders of the work folder."""
    command = [sys.executable, "-m", "limbeck", "console", str(work), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(x for x in process.stderr if "console: http" in x)
            yield line.split("console: ")[1].strip(), process.pid
        finally:
            process.terminate()
            process.communicate()


def write_again(run: RunFolder, count: int) -> None:
    """What a labelling job does: rows change, 500 in a transaction."""
    with Ledger(run.ledger) as ledger:
        part = []
        for row in made_rows(count):
            part.append(row)
            if len(part) == 500:
                ledger.write_rows(part)
                part = []


def made_task() -> Task:
    """The task that the rows could be of."""
    words = Words(SEED)
    roles: list[dict[str, Any]] = [{"name": name} for name in ("brand", "product", "size", "colour")]
    return Task.model_validate({
        "name": "console", "data": {"dir": ".", "labels": "labels.jsonl"}, "teacher": {"backend": "labels"},
        "roles": [
            *roles, {"name": "aisle", "kind": "closed", "values": words.aisles},
            {"name": "mark", "kind": "closed", "values": ["vegan", "organic", "kosher", "halal", "gluten free"]},
        ],
    })


def peak_mb(process: int | str) -> int:
    """Peak resident memory of a process."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def _megabytes(path: Path) -> int:
    return round(path.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
