"""The obvious alternative: `vllm serve` with a JSON-schema answer behind LiteLLM's proxy.

    python -m benchmarks.serving_peer runs/market --litellm VENV [--queries 300] [--rates 5 20 50]

The same merged student, machine and queries. Theirs: vLLM as a chat model with `response_format: json_schema`, and
LiteLLM with its cache in memory before it; an answer is limited to the number of tokens that the teacher's labels take
as JSON. Ours: `limbeck serve` with the bundle. Misses one at a time, then the last of these requests again, which both
caches have (LiteLLM's keeps 200): one at a time, and at each of `--rates` a second (Poisson, time from the scheduled
departure). The queries that reached vLLM are counted there. VENV is an environment with
`litellm[proxy]`, which needs other versions than this project.

Expected: a miss costs a pass of the model for each token of JSON against one, some 20 times; a hit costs LiteLLM some
10 ms of Python. Writes benchmarks/results/serving_peer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from engine.loopback import free_port
from engine.process_guard import die_with_parent
from engine.vllm_process import VllmProcess
from eval.arrivals import poisson
from eval.endpoint import Target
from eval.latency import percentiles, summarise
from eval.load_generator import one_by_one, run
from limbeck.environment import device, git_commit, versions
from serving.client import served
from serving.release.bundle import Bundle, open_bundle
from serving.release.head_cache import HeadCache
from task.files import write_json
from task.labels import Example
from task.tokenizer import load_tokenizer

RESULT = Path(__file__).parent / "results" / "serving_peer.json"
WARM_UP = 5
KNOWN = 150  # LiteLLM's cache in memory keeps the last 200 answers


def main() -> None:
    """Theirs, then ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished market run")
    parser.add_argument("--litellm", type=Path, required=True, metavar="VENV")
    parser.add_argument("--queries", type=int, default=300, help="misses; p99 needs 299 of them")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each rate of hits")
    parser.add_argument("--rates", type=float, nargs="+", default=[5.0, 20.0, 50.0], help="rates of hits per second")
    parser.add_argument("--bundle", type=Path, help="another bundle than the run's")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle or options.run / "bundle" / "bundle")
    cache = HeadCache(bundle.folder / "cache")
    known = [Example(q, cache.get(q) or ()) for q in cache.queries()]
    rows = random.Random(0).sample(known, options.queries + WARM_UP)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with litellm(options.run / "merge" / "model", bundle, options.litellm, folder) as (url, engine):
            bodies = [chat(bundle, row) for row in rows]
            target = Target(url, path="/v1/chat/completions")
            theirs = measured(target, f"{engine}/metrics", bodies, bodies, options.seconds, options.rates)
        print("theirs", theirs, flush=True)
        admin = free_port()
        with served(bundle.folder, state=folder / "state", options=("--admin-port", str(admin))) as url:
            misses: list[Any] = [{"query": row.query, "use_cache": False} for row in rows]
            hits: list[Any] = [{"query": row.query} for row in rows]
            metrics = f"http://127.0.0.1:{admin}/engine/metrics"
            ours = measured(Target(url, path="/v1/label"), metrics, misses, hits, options.seconds, options.rates)
        print("ours", ours, flush=True)
    write_json(RESULT, {
        "queries": options.queries, "seconds": options.seconds, "theirs": theirs, "ours": ours,
        "answer_tokens": [b["max_tokens"] for b in bodies[WARM_UP:]],
        "litellm": _version(options.litellm), "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


@contextmanager
def litellm(model: Path, bundle: Bundle, venv: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """The proxy with its cache before vLLM; gives the addresses of both."""
    settings = bundle.task.serving.model_copy(update={"extra_args": ()})
    log = folder / "engine.log"
    with VllmProcess(model, name="student", runs_as="json", settings=settings, log=log) as engine:
        engine.wait_ready()
        config = folder / "litellm.yaml"
        config.write_text(yaml.safe_dump({
            "model_list": [{"model_name": "student", "litellm_params": {
                "model": "hosted_vllm/student", "api_base": f"{engine.url}/v1", "api_key": "none",
            }}],
            "litellm_settings": {"cache": True, "cache_params": {"type": "local"}, "telemetry": False},
        }))
        port = free_port()
        with (folder / "litellm.log").open("wb") as log:
            proxy = subprocess.Popen(
                [str(venv / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
                stdout=log, stderr=log, preexec_fn=die_with_parent,
                env={
                    **os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": "", "NO_PROXY": "*",
                    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, for this measurement
                },
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/health/liveliness", proxy, folder / "litellm.log")
            yield url, engine.url
        finally:
            proxy.terminate()
            proxy.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"LiteLLM did not start:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)


def chat(bundle: Bundle, row: Example) -> dict[str, Any]:
    """The request of an OpenAI client with a JSON schema."""
    answer = json.dumps({"labels": [{"role": x.role, "text": x.text} for x in row.labels]}, separators=(",", ":"))
    label = {
        "type": "object", "properties": {
            "role": {"enum": [r.name for r in bundle.task.roles]}, "text": {"type": "string"},
        }, "required": ["role", "text"], "additionalProperties": False,
    }
    schema = {
        "type": "object", "properties": {"labels": {"type": "array", "items": label}}, "required": ["labels"],
        "additionalProperties": False,
    }
    return {
        "model": "student", "temperature": 0.0,
        "max_tokens": len(load_tokenizer(bundle.model).encode(answer)) + 1,
        "messages": [{"role": "user", "content": f"Label the query: {row.query}"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "labels", "schema": schema}},
    }


def measured(
    target: Target, metrics: str, misses: Sequence[Any], hits: Sequence[Any], seconds: float, rates: Sequence[float]
) -> dict[str, Any]:
    """Misses one by one, of which the first warm up; then hits one by one and in an open loop at each rate.

    Args:
        metrics: URL of vLLM's metrics.
    """
    slow = one_by_one(target, [json.dumps(b) for b in misses], use_cache=True, timeout_s=120.0)
    bodies = [json.dumps(b) for b in hits[-KNOWN:]]
    before = asked(metrics)
    known = one_by_one(target, bodies, use_cache=True)
    if (known.status != 200).any() or (slow.status != 200).any():
        raise SystemExit(f"{target.url}: {sorted(set(known.status.tolist()) | set(slow.status.tolist()))}")
    at_rates = []
    for rate in rates:
        plan = poisson(rate, seconds, bodies, 1)
        found = summarise([(plan, run(plan, target))], kinds=False)
        kept = {k: v for k, v in found["blended"].items() if k != "hdr"}
        at_rates.append({"rate": rate, "saturated": found["saturated"], "valid": found["valid"], **kept})
    return {
        "misses": percentiles(slow.latency[WARM_UP:]), "hits": percentiles(known.latency[WARM_UP:]),
        "hits_at": at_rates, "hits_that_reached_vllm": asked(metrics) - before,
    }


def asked(metrics: str) -> int:
    """Requests that vLLM has finished."""
    with urllib.request.urlopen(metrics, timeout=10) as response:
        text = response.read().decode()
    return round(sum(float(x.split()[-1]) for x in text.splitlines() if x.startswith("vllm:request_success_total")))


def _version(venv: Path) -> str:
    code = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.run(
        [str(venv / "bin" / "python"), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
