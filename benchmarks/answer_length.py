"""Latency by the length of the answer: `read` against a JSON answer, same weights, same vLLM, same queries.

    python -m benchmarks.answer_length runs/market

The finished run's student is served as a token classifier (`read`, nothing generated) and, from the same merged
weights, as a language model that generates exactly as many tokens as the gold labelling of each query has as compact
JSON. One query at a time, straight to the engine. Expected: the ratio of decoded tokens to one forward pass, some 20 to
30. Writes benchmarks/results/answer_length.json.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path
from typing import Any

import aiohttp

from engine.client import VllmClient
from engine.vllm_process import VllmProcess
from eval.latency import percentiles
from limbeck.environment import device, git_commit, versions
from serving.release.bundle import Bundle, open_bundle
from task.codec import Codec
from task.files import write_json
from task.labels import Example
from task.readers import read_labels
from task.tokenizer import FastTokenizer, load_tokenizer

QUERIES, WARM_UP = 60, 5


async def time_read(url: str, bundle: Bundle, tokenizer: FastTokenizer, rows: list[Example]) -> list[float]:
    """Seconds of each query in the `read` form."""
    client = VllmClient.of(bundle, url, tokenizer)
    out = []
    for row in rows:
        started = time.perf_counter()
        await client.label([row.query])
        out.append(time.perf_counter() - started)
    await client.close()
    return out


async def time_written(
    url: str, name: str, codec: Codec, tokenizer: FastTokenizer, rows: list[Example]
) -> tuple[list[float], list[int]]:
    """Seconds of each query when its JSON answer is decoded, and the answers' lengths in tokens."""
    seconds, tokens = [], []
    async with aiohttp.ClientSession() as session:
        for row in rows:
            length = len(codec.encode(row, tokenizer).targets)
            body: dict[str, Any] = {
                "model": name, "prompt": codec.prompt(row.query, tokenizer).ids, "temperature": 0.0,
                "max_tokens": length, "min_tokens": length, "ignore_eos": True,
            }
            started = time.perf_counter()
            async with session.post(f"{url}/v1/completions", json=body) as response:
                answer = await response.json()
            seconds.append(time.perf_counter() - started)
            tokens.append(int(answer["usage"]["completion_tokens"]))
    return seconds, tokens


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run folder, such as runs/market")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/answer_length.json"))
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.run / "bundle" / "bundle")
    tokenizer = load_tokenizer(bundle.model)
    rows = read_labels(arguments.run / "sample" / "gold_test.jsonl", bundle.task)[: QUERIES + WARM_UP]
    log, settings = arguments.run / "answer-length.log", bundle.task.serving
    with VllmProcess(
        bundle.model, name=bundle.model_name, runs_as="read", settings=settings, log=log
    ) as engine:
        engine.wait_ready()
        read = asyncio.run(time_read(engine.url, bundle, tokenizer, rows))[WARM_UP:]
    codec = Codec.compile(bundle.task, rows, tokenizer, "json")
    with VllmProcess(
        arguments.run / "merge" / "model", name="writer", runs_as="json", settings=settings, log=log
    ) as engine:
        engine.wait_ready()
        written, tokens = asyncio.run(time_written(engine.url, "writer", codec, tokenizer, rows))
        written, tokens = written[WARM_UP:], tokens[WARM_UP:]
    ratios = sorted(w / r for w, r in zip(written, read, strict=True))
    rng = random.Random(0)
    medians = sorted(sorted(rng.choices(ratios, k=len(ratios)))[len(ratios) // 2] for _ in range(2000))
    result = {
        "command": "python -m benchmarks.answer_length runs/market",
        "queries": len(rows) - WARM_UP, "json_tokens_mean": round(sum(tokens) / len(tokens), 2),
        "read": percentiles(read), "json": percentiles(written),
        "median_ratio": {"value": round(ratios[len(ratios) // 2], 2), "low": round(medians[50], 2),
                         "high": round(medians[1949], 2)},
        "versions": versions(), "device": device(), "git": git_commit(),
    }
    write_json(arguments.out, result)
    print(f"read {result['read']['p50_ms']} ms, json {result['json']['p50_ms']} ms, ratio {result['median_ratio']}")


if __name__ == "__main__":
    main()
