"""A local teacher asked in the order of its prompts, against the order of the log: tokens/s and prefix-cache hits.

    python -m benchmarks.prefix_order RUN [--rows 160] [--rounds 3] [--work FOLDER]

RUN is the folder of a finished market run. The first gold test queries are labelled by the `vllm` backend with
SmolLM2-135M, all context and five retrieved examples, once in each order and round, by an engine that has just started;
its start and the index do not count. The engine's cache has room for a few dozen prompts, as it has for a tiny share of
the prompts of a large job. `hits` are the tokens that the engine found in its cache, of those of all prompts. With
FOLDER an interrupted benchmark goes on where it was.

Expected, before it was run: the instructions are found in both orders; beyond them only prompts with the same first
examples share anything, so a few more hits in a hundred, and as much more speed. Writes
benchmarks/results/prefix_order.json.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from limbeck.environment import device, git_commit, versions
from limbeck.inputs import Inputs
from task.files import read_json, write_json
from task.load import load_task
from task.model_store import fetch
from task.progress import quiet
from teacher.backends.job import LabellingJob
from teacher.backends.llm.contexts import embedder_of, make_index, open_finder
from teacher.backends.llm.local_model import LocalTeacher
from teacher.backends.llm.online import Endpoint, label_online
from teacher.guardrails.validator import make_validator
from teacher.ledger.ledger import Ledger

RESULT = Path(__file__).parent / "results" / "prefix_order.json"
ORDERS = ("of the log", "of the prompts")
SETTINGS = {
    "teacher.backend": "vllm", "teacher.openai.prompt": "configs/prompts/label.j2", "teacher.openai.max_tokens": "48",
    "teacher.openai.context_tokens": "400", "teacher.openai.concurrency": "8", "teacher.openai.timeout_s": "300",
    "teacher.vllm.max_model_len": "2048", "teacher.vllm.kv_cache_gib": "0.75",
}


def main() -> None:
    """Every order in turn, each with an engine and a ledger of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(options.run, options.rows, options.rounds, options.work or Path(name))


def compare(run: Path, rows: int, rounds: int, work: Path) -> None:
    """The runs of both orders, and their medians."""
    found: dict[str, list[dict[str, float]]] = {order: [] for order in ORDERS}
    for number in range(rounds):
        for order in ORDERS if number % 2 == 0 else ORDERS[::-1]:
            folder = work / f"{order.replace(' ', '-')}-{number}"
            if not (folder / "result.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / "result.json", measure(run, rows, order, folder, work / "index"))
            found[order].append(read_json(folder / "result.json"))
            print(order, found[order][-1], flush=True)
    ratios = [b["tokens_per_s"] / a["tokens_per_s"] for a, b in zip(*found.values(), strict=True)]
    write_json(RESULT, {
        "model": "SmolLM2-135M-Instruct", "rows": rows, "rounds": rounds, "settings": SETTINGS,
        "orders": {
            order: {"runs": runs} | {
                k: {"median": round(statistics.median(r[k] for r in runs), 4), "low": min(r[k] for r in runs),
                    "high": max(r[k] for r in runs)} for k in ("tokens_per_s", "hits")
            } for order, runs in found.items()
        },
        "times": {"value": round(statistics.median(ratios), 3), "low": round(min(ratios), 3),
                  "high": round(max(ratios), 3)},
        "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def measure(run: Path, rows: int, order: str, folder: Path, index: Path) -> dict[str, float]:
    """Label in one order; tokens are those of prompts and answers, cached ones included."""
    task = load_task(Path("configs/market.yaml"), [f"{k}={v}" for k, v in SETTINGS.items()]).task
    inputs = Inputs(task, run / "sample")
    queries = [replace(x, labels=()) for x in inputs.test[:rows]]
    (folder / "ledger.sqlite").unlink(missing_ok=True)
    with Ledger(folder / "ledger.sqlite") as ledger, LocalTeacher(task, fetch, folder / "teacher.log") as model:
        job = LabellingJob(
            task, replace(inputs.teacher, log=queries), queries, ledger=ledger, folder=index, fetch=fetch,
            progress=quiet,
        )
        job = replace(job, finder=open_finder(job, index=make_index(job), model=embedder_of(job)))
        validator = make_validator(task, inputs.teacher.catalogue, index, fetch)
        endpoint = Endpoint(model.settings(), model.url)
        if order == ORDERS[0]:  # an endpoint of which nothing is known but its address
            endpoint = Endpoint(model.settings().model_copy(update={"base_url": model.url()}))
        asked = metrics(model.url())
        began = time.monotonic()
        label_online(job, validator, endpoint, lambda _: None)
        seconds = time.monotonic() - began
        now = metrics(model.url())
        spent = ledger.spent()
    tokens = spent["prompt_tokens"] + spent["completion_tokens"]
    hits, looked_up = (now[k] - asked[k] for k in ("hits", "queries"))
    return {"tokens_per_s": round(tokens / seconds, 1), "tokens": tokens, "seconds": round(seconds, 1),
            "hits": round(hits / looked_up, 4)}


def metrics(url: str) -> dict[str, float]:
    """Tokens that the engine has looked for in its prefix cache, and found."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics") as answer:
        text = answer.read().decode()
    return {
        name: sum(float(x) for x in re.findall(rf"^vllm:prefix_cache_{name}_total{{.*?}} (\S+)$", text, re.MULTILINE))
        for name in ("hits", "queries")
    }


if __name__ == "__main__":
    main()
