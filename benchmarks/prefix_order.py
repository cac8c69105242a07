"""A local teacher without a prefix cache, with one, and with one and the requests in the order of their prompts.

    python -m benchmarks.prefix_order RUN [--rows 96] [--rounds 3] [--work FOLDER]

RUN is the folder of a finished market run. The first gold test queries are labelled by the `vllm` backend with
SmolLM2-135M, all context and the retrieved examples, once in each way and round, by an engine that has just started;
its start and the index do not count. The engine's cache has room for a few dozen prompts, as it has for a tiny share of
the prompts of a large job. `hits` are the tokens that the engine found in its cache, of those of all prompts. With
FOLDER an interrupted benchmark goes on where it was. `possible` is computed without an engine: the share of tokens that
a cache of 8,000 tokens finds, for 600 queries, one after another, and blocks of 16 tokens, vLLM's on a GPU, and of 32,
its blocks on a CPU.

Expected, before it was run: the instructions are found in both orders; beyond them only prompts with the same first
examples share anything, so a few more hits in a hundred, and as much more speed. Found: of so few queries hardly any
share more than the instructions, which both orders find. Writes benchmarks/results/prefix_order.json.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from limbeck.environment import device, git_commit, versions
from limbeck.inputs import Inputs
from llm_client.prompt import Prompter
from task.files import read_json, write_json
from task.labels import Example
from task.load import load_task
from task.model_store import fetch
from task.progress import quiet
from task.spec import Task
from task.tokenizer import load_tokenizer
from teacher.backends.job import LabellingJob, Sources
from teacher.backends.llm.contexts import blocks, embedder_of, make_index, open_finder
from teacher.backends.llm.local_model import LocalTeacher
from teacher.backends.llm.online import Endpoint, by_prefix, label_online
from teacher.guardrails.validator import make_validator
from teacher.ledger.ledger import Ledger

RESULT = Path(__file__).parent / "results" / "prefix_order.json"
NO_CACHE, LOG, PROMPTS = ORDERS = ("of the log, no cache", "of the log", "of the prompts")
POSSIBLE_ROWS, CACHE_TOKENS = 600, 8_000
SETTINGS = {
    "teacher.backend": "vllm", "teacher.openai.prompt": "configs/prompts/label.j2", "teacher.openai.max_tokens": "48",
    "teacher.openai.context_tokens": "400", "teacher.openai.concurrency": "8", "teacher.openai.timeout_s": "300",
    "teacher.vllm.max_model_len": "2048", "teacher.vllm.kv_cache_gib": "0.75",
}


def main() -> None:
    """Every order in turn, each with an engine and a ledger of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=96)
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
    write_json(RESULT, {
        "model": "SmolLM2-135M-Instruct", "rows": rows, "rounds": rounds, "settings": SETTINGS,
        "orders": {
            order: {"runs": runs} | {
                k: {"median": round(statistics.median(r[k] for r in runs), 4), "low": min(r[k] for r in runs),
                    "high": max(r[k] for r in runs)} for k in ("tokens_per_s", "hits")
            } for order, runs in found.items()
        },
        "times": {"cache": times(found[LOG], found[NO_CACHE]), "order": times(found[PROMPTS], found[LOG])},
        "possible": possible(run, work / "index"),
        "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def times(runs: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The ratio of tokens/s: the median of the rounds, the lowest and the highest."""
    ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(runs, others, strict=True)]
    return {k: round(f(ratios), 3) for k, f in (("value", statistics.median), ("low", min), ("high", max))}


def possible(run: Path, index: Path) -> dict[str, dict[str, float]]:
    """By size of a block and order: the share of tokens that a cache without the newest prompts' delay finds."""
    task, sources, queries = inputs_of(run, POSSIBLE_ROWS)
    with Ledger(index / "ledger.sqlite") as ledger:
        job = LabellingJob(
            task, replace(sources, log=queries), queries, ledger=ledger, folder=index, fetch=fetch, progress=quiet
        )
        return _possible(job)


def _possible(job: LabellingJob) -> dict[str, dict[str, float]]:
    task = job.task
    prompter, tokenizer = Prompter(task), load_tokenizer(fetch(task.teacher.vllm.model))
    orders: dict[str, list[list[int]]] = {LOG: [], PROMPTS: []}
    for block in blocks(job):
        pairs = [(found, prompter.first(found[0].query, found[1])) for found in block]
        for order, part in ((LOG, pairs), (PROMPTS, by_prefix(pairs))):
            for _, group in part:
                messages = json.loads(group[0].content)["messages"]
                orders[order].append(tokenizer.encode("\n".join(m["content"] for m in messages)))
    return {str(size): {order: round(found_in_cache(ids, size), 4) for order, ids in orders.items()}
            for size in (16, 32)}


def found_in_cache(prompts: Sequence[Sequence[int]], size: int) -> float:
    """The share of tokens in a cache of `CACHE_TOKENS` that drops the block which was used longest ago."""
    held: OrderedDict[tuple[int, ...], None] = OrderedDict()
    hits = 0
    for ids in prompts:
        found = True
        for end in range(size, len(ids) + 1, size):
            block = tuple(ids[:end])
            found = found and block in held
            hits += size * found
            held[block] = None
            held.move_to_end(block)
            if len(held) > CACHE_TOKENS // size:
                held.popitem(last=False)
    return hits / sum(map(len, prompts))


def inputs_of(run: Path, rows: int) -> tuple[Task, Sources, list[Example]]:
    """The market's task with a local teacher, its data, and the first gold test queries."""
    task = load_task(Path("configs/market.yaml"), [f"{k}={v}" for k, v in SETTINGS.items()]).task
    inputs = Inputs(task, run / "sample")
    return task, inputs.teacher, [replace(x, labels=()) for x in inputs.test[:rows]]


def measure(run: Path, rows: int, order: str, folder: Path, index: Path) -> dict[str, float]:
    """Label in one order; tokens are those of prompts and answers, cached ones included."""
    task, sources, queries = inputs_of(run, rows)
    if order == NO_CACHE:
        vllm = task.teacher.vllm.model_copy(update={"extra_args": ("--no-enable-prefix-caching",)})
        task = task.model_copy(update={"teacher": task.teacher.model_copy(update={"vllm": vllm})})
    (folder / "ledger.sqlite").unlink(missing_ok=True)
    with Ledger(folder / "ledger.sqlite") as ledger, LocalTeacher(task, fetch, folder / "teacher.log") as model:
        job = LabellingJob(
            task, replace(sources, log=queries), queries, ledger=ledger, folder=index, fetch=fetch,
            progress=quiet,
        )
        job = replace(job, finder=open_finder(job, index=make_index(job), model=embedder_of(job)))
        validator = make_validator(task, sources.catalogue, index, fetch)
        endpoint = Endpoint(model.settings(), model.url)
        if order != PROMPTS:  # an endpoint of which nothing is known but its address
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
            "hits": round(hits / looked_up, 4) if looked_up else 0.0}


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
