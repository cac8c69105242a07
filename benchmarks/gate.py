"""Does the gate reject bad candidates and accept good ones?

    python -m benchmarks.gate BUNDLE GOLD [--rows 1000] [--pairs 1500]

The bundle plays the released one, and candidates are judged against it by `limbeck gate` with the bundle's own rules
but `min_f1` and those about the teacher, which good candidates and bad ones pass alike:

- `flipped`: the same answers with 1 % of the labels given another role;
- `same`: the bundle itself, made again; it must pass;
- `perturbed`: one layer's down projection with noise of half its standard deviation, as a merge or a conversion that
  went wrong could leave it; the answers that the trained student gave before come with it, as they do with each bundle;
- `codec`: two roles of the codec exchanged;
- `cache`: the head cache of another task;
- `slower`: the same engine behind a relay that holds every answer back by a fifth of its median, beside the same relay
  that does not;
- `A/A`: two engines that serve the bundle. A hundred repetitions: of 300 pairs of latencies each, one window after
  the other out of all pairs, and of gold rows drawn anew with answers that differ by as much as two roundings of one
  model do (0.2 % of the labels on either side).

Expected: `same` passes, the other five fail; of the hundred all pass. Writes benchmarks/results/gate.json.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.loopback import free_port
from eval.endpoint import Target
from eval.gate import Check, judge
from eval.latency import percentiles, times_as_slow
from eval.load_generator import in_turns
from eval.quality import paired_difference
from limbeck.environment import device, git_commit, versions
from limbeck.judging.gate import gate
from serving.client import answer_all, served
from serving.release import bundle as parts
from serving.release.bundle import Bundle, build, open_bundle
from task.codec import Codec
from task.errors import InputError
from task.files import read_json, write_json, write_jsonl
from task.labels import Example
from task.progress import quiet
from task.readers import read_labels
from task.spec import Task

RESULT = Path(__file__).parent / "results" / "gate.json"
WINDOW, REPETITIONS = 300, 100
RULES = ("released_margin", "max_slower")
RELAY = """
import asyncio, sys
port, to, delay = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
async def pump(reader, writer, wait):
    while data := await reader.read(65536):
        if wait: await asyncio.sleep(wait)
        writer.write(data)
    writer.close()
async def accept(reader, writer):
    up, down = await asyncio.open_connection("127.0.0.1", to)
    await asyncio.gather(pump(reader, down, 0), pump(up, writer, delay))
async def main():
    await (await asyncio.start_server(accept, "127.0.0.1", port)).serve_forever()
asyncio.run(main())
"""


def main() -> None:
    """One pair of engines for A/A, flips and the slow one; then a pair for each candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("gold", type=Path)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--pairs", type=int, default=1_500)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    gold = read_labels(options.gold, bundle.task)[: options.rows]
    found: dict[str, Any] = {"rows": len(gold), "pairs": options.pairs, "window": WINDOW}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found |= beside_itself(bundle, gold, options.pairs, folder)
        write_jsonl(folder / "gold.jsonl", (g.to_json() for g in gold))
        for what, make in CANDIDATES.items():
            started = time.monotonic()
            made = make(bundle, folder / what)
            found[what] = refused(made, folder / "gold.jsonl", bundle)
            shutil.rmtree(made)
            print(what, found[what], f"{time.monotonic() - started:.0f} s", flush=True)
    write_json(RESULT, found | {"versions": versions(), "device": device(), "git": git_commit()})
    print(RESULT)


def beside_itself(bundle: Bundle, gold: Sequence[Example], pairs: int, folder: Path) -> dict[str, Any]:
    """A/A, flipped labels and a slower engine, on two engines that serve the same bundle."""
    task = bundle.task
    with served(bundle.folder, state=folder / "a") as a, served(bundle.folder, state=folder / "b") as b:
        answers = [[a.row for a in answer_all(u, gold, batch=64, done=lambda _: None)] for u in (a, b)]
        queries = [gold[i % len(gold)].query for i in range(pairs + 20)]
        left, right = (s.latency[20:] for s in in_turns([Target(a), Target(b)], queries, use_cache=False))
        delay = 0.2 * float(np.median(right))
        with relay(a, delay) as slow, relay(b, 0.0) as fast:
            mine, theirs = in_turns([Target(slow), Target(fast)], queries[: WINDOW + 20], use_cache=False)
    slower = times_as_slow(mine.latency[20:], theirs.latency[20:])
    bad = [flipped(x, task, 0.01, 1) for x in answers[0]]
    out: dict[str, Any] = {
        "flipped": told(verdict(task, gold, bad, answers[1], times_as_slow(left, right))),
        "slower": told(verdict(task, gold, answers[0], answers[1], slower)) | {"delay_ms": round(1e3 * delay, 2)},
        "p50_ms": percentiles(right)["p50_ms"], "aa_slower": times_as_slow(left, right),
    }
    out["aa"] = repeated(task, gold, answers, left, right)
    print(out, flush=True)
    return out


def repeated(
    task: Task, gold: Sequence[Example], answers: Sequence[Sequence[Example]], left: Any, right: Any
) -> dict[str, Any]:
    """How many of a hundred comparisons of a bundle with itself pass, and which rules stopped the others."""
    rng = np.random.default_rng(0)
    passed, stopped = 0, dict.fromkeys(RULES, 0)
    for i in range(REPETITIONS):
        at = round(i * (len(left) - WINDOW) / max(1, REPETITIONS - 1))
        rows = rng.integers(0, len(gold), len(gold))
        truth = [gold[j] for j in rows]
        sides = [[flipped(side[j], task, 0.002, (i, n, k)) for k, j in enumerate(rows)]
                 for n, side in enumerate(answers)]
        slower = times_as_slow(left[at : at + WINDOW], right[at : at + WINDOW])
        checks = verdict(task, truth, sides[0], sides[1], slower)
        passed += all(c.ok for c in checks)
        for rule in {c.rule for c in checks if not c.ok}:
            stopped[rule] += 1
    return {"repetitions": REPETITIONS, "passed": passed, "stopped": stopped}


def verdict(
    task: Task, gold: Sequence[Example], candidate: Sequence[Example], released: Sequence[Example], slower: Any
) -> list[Check]:
    """The rules that compare with the released bundle."""
    from eval.gate import GateEvidence

    less = {s: paired_difference(gold, candidate, released, task, s) for s in ("f1", "recall")}
    checks = judge(task.gates, GateEvidence(released=less, slower=slower, first_release=False))
    return [c for c in checks if c.rule in RULES]


def refused(folder: Path, gold: Path, released: Bundle) -> dict[str, Any]:
    """`limbeck gate` on a candidate, the released bundle beside it."""
    try:
        checks = gate(folder, gold, quiet, released_from=released.folder, pairs=WINDOW, overrides=[
            f"gates.{rule}=null" for rule in ("min_f1", "teacher_margin", "slice_margin")
        ]).checks
    except InputError as error:
        return {"ok": False, "rules": ["verification"], "found": [error.problem]}
    return told(checks)


def told(checks: Sequence[Check]) -> dict[str, Any]:
    """Which rules do not hold, and why."""
    failed = [c for c in checks if not c.ok]
    return {"ok": not failed, "rules": sorted({c.rule for c in failed}), "found": [c.found for c in failed]}


def flipped(row: Example, task: Task, share: float, seed: object) -> Example:
    """A labelling with some labels given another role, the same for the same query and seed."""
    rng = random.Random(f"{seed} {row.query}")
    names = [r.name for r in task.open_roles]
    return replace(row, labels=tuple(
        replace(x, role=rng.choice([n for n in names if n != x.role]))
        if x.start is not None and rng.random() < share else x for x in row.labels
    ))


def _perturbed(bundle: Bundle, folder: Path) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    model = folder / "made"
    shutil.copytree(bundle.model, model)
    path = model / "model.safetensors"
    weights = load_file(path)
    name = next(k for k in weights if ".layers.15.mlp.down_proj" in k)
    torch.manual_seed(0)
    noise = torch.randn(weights[name].shape) * 0.5 * weights[name].float().std()
    weights[name] = (weights[name].float() + noise).to(weights[name].dtype)
    path.unlink()  # a link to the released bundle's own
    save_file(weights, path, metadata={"format": "pt"})
    return _built(bundle, folder, model=model)


def _same(bundle: Bundle, folder: Path) -> Path:
    return _built(bundle, folder)


def _built(bundle: Bundle, folder: Path, *, codec: Codec | None = None, model: Path | None = None) -> Path:
    return build(
        folder / "bundle", bundle.task, codec or bundle.codec, model or bundle.model, [], {},
        calibrator=bundle.calibrator, reference=bundle.reference(),
    ).folder


def _other_codec(bundle: Bundle, folder: Path) -> Path:
    content = bundle.codec.to_json()
    first, second, *rest = content["roles"]
    codec = Codec.from_json(content | {"roles": [second, first, *rest]})
    return _built(bundle, folder, codec=codec)


def _other_cache(bundle: Bundle, folder: Path) -> Path:
    other = build(
        folder / "other", bundle.task.model_copy(update={"name": "another"}), bundle.codec, bundle.model, [], {},
        calibrator=bundle.calibrator,
    )
    made = folder / "bundle"
    shutil.copytree(bundle.folder, made)
    shutil.rmtree(made / "cache")
    shutil.copytree(other.folder / "cache", made / "cache")
    # Put together by hand with care: every hash is right, so that only what the cache was made for can give it away.
    files = parts._hashes(made)
    manifest = {**read_json(made / "manifest.json"), "files": files, "id": parts._digest(files)}
    write_json(made / "manifest.json", manifest)
    return made


CANDIDATES = {"same": _same, "perturbed": _perturbed, "codec": _other_codec, "cache": _other_cache}


@contextlib.contextmanager
def relay(url: str, delay: float) -> Iterator[str]:
    """A relay to a service that holds its answers back."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", RELAY, str(port), url.rpartition(":")[2], str(delay)])
    try:
        time.sleep(1.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
