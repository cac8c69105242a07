"""distilabel, for benchmarks/labelling.py: URL ROWS IN_FLIGHT FOLDER OUT."""

import json
import os
import resource
import sys
import time
from pathlib import Path

url, rows, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
folder, out = Path(sys.argv[4]), Path(sys.argv[5])
sys.path.pop(0)  # this file's own folder, which would hide the library of the same name
os.environ |= {"HF_DATASETS_CACHE": str(folder / "hf"), "DISTILABEL_CACHE_DIR": str(folder / "cache")}

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

SYSTEM = 'Label the query. Answer with JSON: {"labels": [{"role": "product", "text": "..."}]}\n'


def main() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    with Pipeline(name="bench", cache_dir=folder / "cache") as pipeline:
        load = LoadDataFromDicts(
            data=[{"instruction": f"query{i} milk"} for i in range(rows)], batch_size=in_flight
        )
        llm = OpenAILLM(model="m", base_url=url, api_key="x", max_retries=4,
                        generation_kwargs={"max_new_tokens": 512, "temperature": 0.0})
        load >> TextGeneration(llm=llm, system_prompt=SYSTEM, input_batch_size=in_flight)
    found = pipeline.run(use_cache=True)
    table = found["default"]["train"]
    done = sum(isinstance(g, str) and g.startswith('{"labels": [{') for g in table["generation"])
    out.write_text(json.dumps({
        "seconds": time.perf_counter() - started, "rows": done, "idle_cpu_s": usage.ru_utime + usage.ru_stime,
    }))


if __name__ == "__main__":
    main()
