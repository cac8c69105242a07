"""LiteLLM in a loop with a semaphore, for benchmarks/labelling.py: URL ROWS IN_FLIGHT FOLDER OUT."""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this file's own folder, which would hide the library of the same name

import litellm

url, rows, in_flight, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[5])
litellm.suppress_debug_info = True
SYSTEM = 'Label the query. Answer with JSON: {"labels": [{"role": "product", "text": "..."}]}\n'


async def main() -> int:
    gate = asyncio.Semaphore(in_flight)

    async def ask(query: str) -> bool:
        async with gate:
            try:
                reply = await litellm.acompletion(
                    model="openai/m", api_base=url, api_key="x", max_tokens=512, temperature=0.0, num_retries=4,
                    messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": query}],
                )
                return isinstance(json.loads(reply.choices[0].message.content), dict)
            except Exception:  # whatever it raises, the row has no answer, which is what is counted
                return False

    return sum(await asyncio.gather(*(ask(f"query{i} milk") for i in range(rows))))


usage = resource.getrusage(resource.RUSAGE_SELF)
started = time.perf_counter()
done = asyncio.run(main())
out.write_text(json.dumps({
    "seconds": time.perf_counter() - started, "rows": done, "idle_cpu_s": usage.ru_utime + usage.ru_stime,
}))
