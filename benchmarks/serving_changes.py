"""A service under load during twenty changes of its bundle, and during faults.

    python -m benchmarks.serving_changes BUNDLE [--rate 200] [--share 0.05] [--changes 20] [--cold 3]
                                         [--only changes|faults]

An open loop of hits and misses (Poisson, time from the scheduled departure) runs throughout; every answer is checked.

- `changes`: the bundle and another one, whose model and cache swap two roles, are released in turn; the first `--cold`
  times the new engine must be started, later it is the one that was kept. The last change is a rollback. An answer is
  a mixture where it differs from that of the bundle that it names, asked alone, and equals that of the other one.
- `faults`: the engine is killed, the engine is stopped, a worker is killed, the service's copy of the cache is cut to
  nothing, the cache of the bundle itself is overwritten, the disk of the logs is full. The service has recovered when
  misses are answered again and all processes run.

Expected: no request fails in a change, and a switch between running engines takes a fraction of a second. Of the
faults only the engine's are seen by clients, as refused misses for as long as vLLM takes to start (half a minute here).
Writes benchmarks/results/serving_changes.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.mixed_load import MixedLoad, Outcome
from benchmarks.serving import made_up_misses
from engine.loopback import free_port
from eval.latency import percentiles
from limbeck.environment import device, git_commit, versions
from serving.client import served
from serving.release.bundle import Bundle, build, open_bundle
from serving.release.head_cache import HeadCache
from serving.release.pointer import release, rollback
from task.files import write_json
from task.labels import Example, Label
from task.serving_settings import Change
from task.validation import violation

RESULT = Path(__file__).parent / "results" / "serving_changes.json"
LabelsByQuery = dict[str, str]  # labels as JSON


def main() -> None:
    """Do both, or what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="the market's bundle")
    parser.add_argument("--rate", type=float, default=200.0, help="requests per second")
    parser.add_argument("--share", type=float, default=0.05, help="share of misses")
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--cold", type=int, default=3, help="changes for which an engine must be started")
    parser.add_argument("--roles", nargs=2, default=["flavour", "colour"], help="two roles that the other bundle swaps")
    parser.add_argument("--only", choices=("changes", "faults"), action="append")
    options = parser.parse_args()
    wanted = options.only or ["changes", "faults"]
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        first = open_bundle(options.bundle)
        other = swapped(first, *options.roles, Path(name) / "other")
        with running(first, Path(name)) as service:
            queries = list(HeadCache(first.folder / "cache").queries())
            misses = made_up_misses(first, 400)
            if "changes" in wanted:
                found["changes"] = changes(
                    service, first, other, queries, misses, options.rate, options.share, options.changes, options.cold,
                )
                print(found["changes"], flush=True)
            if "faults" in wanted:
                found["faults"] = faults(service, first, queries, misses, options.rate, options.share)
    write_json(RESULT, found | {
        "rate": options.rate, "share": options.share, "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


# -- a service ---------------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """A running service, its operators' port, its state folder and the pointer that it follows."""

    url: str
    admin: str
    state: Path
    pointer: Path

    def status(self) -> dict[str, Any]:
        """The status of the only task."""
        with urllib.request.urlopen(f"{self.admin}/status", timeout=30) as response:
            found = dict(json.load(response))
        (task,) = found["tasks"].values()
        return {**found, **task}

    def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 300.0) -> dict[str, Any]:
        """The status once it holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.status()
            if holds(found):
                return found
            time.sleep(0.1)
        raise TimeoutError(json.dumps(self.status(), indent=1))

    def healthy(self) -> dict[str, Any]:
        """The status once everything runs."""
        return self.until(lambda s: s["active"]["engine"] == "ready" and s["asked"] and all(
            w["pid"] and w["generation"] == s["generation"] for w in s["workers"]
        ))

    def labels(self, queries: Sequence[str]) -> LabelsByQuery:
        """Its labels of queries, asked one by one."""
        out = {}
        for query in queries:
            request = urllib.request.Request(f"{self.url}/v1/label", json.dumps({"query": query}).encode())
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    out[query] = _labels(json.load(response))
            except urllib.error.HTTPError as error:
                raise RuntimeError(f"{query!r}: {error.code} {error.read().decode()}; {self.status()}") from error
        return out


@contextmanager
def running(bundle: Bundle, folder: Path) -> Iterator[Service]:
    """A service of two workers that follows a pointer to a bundle."""
    pointer, admin = folder / "live.json", free_port()
    release(pointer, bundle=bundle.folder, change=Change(), ungated=True)
    with served(pointer, state=folder / "state", options=["--admin-port", str(admin), "--workers", "2"]) as url:
        yield Service(url, f"http://127.0.0.1:{admin}", folder / "state", pointer)


def swapped(bundle: Bundle, one: str, two: str, folder: Path) -> Bundle:
    """A bundle that calls `one` what the given one calls `two`, in its model and its cache."""
    model = folder / "model"
    shutil.copytree(bundle.model, model)
    order = list(range(len(bundle.codec.symbol_ids)))
    a, b = (1 + 2 * bundle.codec.roles.index(role) for role in (one, two))
    order[a : a + 2], order[b : b + 2] = order[b : b + 2], order[a : a + 2]
    for shard in sorted(model.glob("*.safetensors")):
        tensors = load_file(str(shard))
        if "score.weight" in tensors:
            tensors["score.weight"] = tensors["score.weight"][order].clone()
            shard.unlink()
            save_file(tensors, str(shard), metadata={"format": "pt"})
    names = {one: two, two: one}
    cache = HeadCache(bundle.folder / "cache")
    head = []
    for query in cache.queries():
        labels = tuple(
            Label(names.get(x.role, x.role), x.text, x.start, x.end, x.confidence) for x in cache.get(query) or ()
        )
        if not violation(bundle.task, query, labels):
            head.append(Example(query, labels))
    return build(folder / "bundle", bundle.task, bundle.codec, model, head, {}, calibrator=bundle.calibrator)


def _labels(body: dict[str, Any]) -> str:
    return json.dumps([[x["role"], x["text"], x["start"], x["end"]] for x in body["labels"]])


# -- changes -----------------------------------------------------------------------------------------------------------


def changes(
    service: Service, first: Bundle, other: Bundle, hits: Sequence[str], misses: Sequence[str], rate: float,
    share: float, count: int, cold: int,
) -> dict[str, Any]:
    """Release both in turn under load; the first `cold` times an engine must be started."""
    bundles = {first.id: first, other.id: other}
    alone = {first.id: service.labels([*hits, *misses])}
    _change(service, other, keep_s=0.1)
    alone[other.id] = service.labels([*hits, *misses])
    _change(service, first, keep_s=0.1)
    service.until(lambda s: s["kept"] is None)
    rows = []
    with MixedLoad(service.url, hits, misses, rate, share) as load:
        time.sleep(2.0)
        now = first.id
        for number in range(count):
            last = number == count - 1
            now = next(x for x in bundles if x != now)
            row = _change(service, bundles[now], keep_s=0.1 if number < cold else 600.0, back=last)
            if number < cold:
                service.until(lambda s: s["kept"] is None)
            rows.append({"number": number + 1, "to": now, "engine_started": number <= cold, "rollback": last, **row})
            print(rows[-1], flush=True)
            time.sleep(2.0)
    for row in rows:
        row |= _around(load.outcomes, row["to"], row["switched"])
    outcomes = load.outcomes
    judged = Counter(_judged(x, alone) for x in outcomes if x.status == 200)
    return {
        "changes": rows, "requests": len(outcomes), "statuses": Counter(str(x.status) for x in outcomes),
        "broken_connections": sum(x.broken for x in outcomes), "answers": judged,
        "hits": percentiles([x.seconds for x in outcomes if x.hit]),
        "misses": percentiles([x.seconds for x in outcomes if not x.hit]),
    }


def _change(service: Service, to: Bundle, keep_s: float, *, back: bool = False) -> dict[str, Any]:
    """Release or roll back, and wait until it is served."""
    started = time.time()
    if back:
        rollback(service.pointer)
    else:
        release(service.pointer, bundle=to.folder, change=Change(keep_s=keep_s), ungated=True)
    released = time.time()
    found = service.until(lambda s: s["active"]["bundle"] == to.id and any(
        _at(n) >= started and n["text"].startswith(f"serving {to.id}") for n in s["news"]
    ))
    switched = max(_at(n) for n in found["news"] if n["text"].startswith(f"serving {to.id}"))
    return {"released": released, "switched": switched, "seconds": round(switched - released, 2)}


def _at(news: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(news["at"]).timestamp()


def _around(outcomes: Sequence[Outcome], to: str, switched: float) -> dict[str, Any]:
    """How long old answers and new ones came side by side, in seconds; taken at the ends of the answers."""
    near = sorted((x.due + x.seconds, x.body.get("bundle")) for x in outcomes if abs(x.due - switched) < 2.0)
    new = [at for at, bundle in near if bundle == to]
    old = [at for at, bundle in near if bundle != to]
    if not new or not old:
        return {"first_new_s": None, "side_by_side_s": None}
    return {"first_new_s": round(new[0] - switched, 3), "side_by_side_s": round(max(0.0, max(old) - new[0]), 3)}


def _judged(outcome: Outcome, alone: dict[str, LabelsByQuery]) -> str:
    """`same` as its bundle says alone, a `mixture`, or a `close call`: bf16 sums depend on what shares a batch."""
    labels, bundle = _labels(outcome.body), outcome.body["bundle"]
    if labels == alone[bundle][outcome.query]:
        return "same"
    other = next(x for x in alone if x != bundle)
    return "mixture" if labels == alone[other][outcome.query] else "close call"


# -- faults ------------------------------------------------------------------------------------------------------------


def faults(
    service: Service, bundle: Bundle, hits: Sequence[str], misses: Sequence[str], rate: float, share: float
) -> list[dict[str, Any]]:
    """Each fault under load, and what clients saw of it until everything ran again."""
    kinds: dict[str, Callable[[Service, Bundle], None]] = {
        "nothing": lambda *_: None, "engine killed": _kill_engine, "engine stopped": _stop_engine,
        "worker killed": _kill_worker, "service's cache cut to nothing": _cut_copy,
        "bundle's cache overwritten": _overwrite_cache, "log disk full": _fill_disk,
    }
    rows = []
    for name, fault in kinds.items():
        service.healthy()
        with MixedLoad(service.url, hits, misses, rate, share) as load:
            time.sleep(2.0)
            at = time.time()
            fault(service, bundle)
            time.sleep(5.0)
            service.healthy()
            _until_answered(load)
            back = max(at, _last_bad(load.since(at)))
            time.sleep(2.0)
        rows.append({"fault": name, "back_s": round(back - at, 1), **_seen(bundle, load.since(at))})
        print(rows[-1], flush=True)
    return rows


def _until_answered(load: MixedLoad) -> None:
    """Wait until ten misses in a row have been answered."""
    while not all(x.status == 200 for x in load.outcomes[-400:] if not x.hit):
        time.sleep(0.2)


def _last_bad(outcomes: Sequence[Outcome]) -> float:
    return max((x.due + x.seconds for x in outcomes if x.status != 200), default=0.0)


def _seen(bundle: Bundle, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What clients saw: statuses, slowest answers, answers that break the task's rules."""
    out: dict[str, Any] = {}
    for name, part in (("hits", [x for x in outcomes if x.hit]), ("misses", [x for x in outcomes if not x.hit])):
        out[name] = {
            "count": len(part), "statuses": Counter(str(x.status) for x in part),
            "broken_connections": sum(x.broken for x in part),
            "p50_ms": round(1e3 * sorted(x.seconds for x in part)[len(part) // 2], 1),
            "slowest_ms": round(1e3 * max(x.seconds for x in part), 1),
        }
    out["schema_false"] = sum(
        bool(violation(bundle.task, x.query, [Label.from_json(y) for y in x.body["labels"]]))
        for x in outcomes if x.status == 200
    )
    return out


def _kill_engine(service: Service, _: Bundle) -> None:
    os.killpg(service.status()["active"]["pid"], signal.SIGKILL)


def _stop_engine(service: Service, _: Bundle) -> None:
    before = service.status()["active"]
    os.killpg(before["pid"], signal.SIGSTOP)
    service.until(lambda s: s["active"]["restarts"] > before["restarts"])


def _kill_worker(service: Service, _: Bundle) -> None:
    os.kill(service.status()["workers"][0]["pid"], signal.SIGKILL)


def _cut_copy(service: Service, bundle: Bundle) -> None:
    os.truncate(service.state / "bundles" / bundle.id / "cache" / "values.bin", 0)


def _overwrite_cache(_: Service, bundle: Bundle) -> None:
    path = bundle.folder / "cache" / "values.bin"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    time.sleep(2.0)
    path.write_bytes(content)


def _fill_disk(service: Service, _: Bundle) -> None:
    full_disk(service.state / "access.jsonl", 3.0)


def full_disk(log: Path, seconds: float) -> None:
    """Replace a log by /dev/full for some seconds, at once, because workers create a log that is missing."""
    full = log.with_name("full")
    full.symlink_to("/dev/full")
    full.replace(log)
    time.sleep(seconds)
    log.unlink()


if __name__ == "__main__":
    main()
