"""bespokelabs-curator, for benchmarks/labelling.py: URL ROWS IN_FLIGHT FOLDER OUT."""

import json
import os
import resource
import sys
import time
from pathlib import Path

url, rows, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
folder, out = Path(sys.argv[4]), Path(sys.argv[5])
sys.path.pop(0)  # this file's own folder
os.environ |= {"CURATOR_DISABLE_RICH_DISPLAY": "1", "TELEMETRY_ENABLED": "false", "OPENAI_API_KEY": "x",
               "CURATOR_CACHE_DIR": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "hf")}

import tiktoken


class Characters:
    """Counts as cheaply as can be; the real vocabulary would have to be fetched."""

    def encode(self, text: str, **_: object) -> list[int]:
        return [0] * (len(text) // 4)


tiktoken.get_encoding = tiktoken.encoding_for_model = lambda _: Characters()

from bespokelabs import curator
from datasets import Dataset

SYSTEM = 'Label the query. Answer with JSON: {"labels": [{"role": "product", "text": "..."}]}\n'


class Labeller(curator.LLM):
    def prompt(self, row: dict) -> list[dict]:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["query"]}]

    def parse(self, row: dict, response: str) -> dict:
        return {"query": row["query"], "labels": json.dumps(json.loads(response)["labels"])}


usage = resource.getrusage(resource.RUSAGE_SELF)
started = time.perf_counter()
labeller = Labeller(
    model_name="m", backend="openai", generation_params={"max_tokens": 512, "temperature": 0.0},
    backend_params={
        "base_url": url, "max_concurrent_requests": in_flight, "max_requests_per_minute": 10**7,
        "max_tokens_per_minute": 10**10, "require_all_responses": False,
    },
)
found = labeller(Dataset.from_list([{"query": f"query{i} milk"} for i in range(rows)]))
table = getattr(found, "dataset", found)
out.write_text(json.dumps({
    "seconds": time.perf_counter() - started, "rows": len(table), "idle_cpu_s": usage.ru_utime + usage.ru_stime,
}))
