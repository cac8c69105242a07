"""A shop whose queries an LLM labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.teacher.test_label import PROMPT


def write_shop(folder: Path, queries: Sequence[str], url: str, **openai: Any) -> Path:
    """A task file with a query log, the most frequent query first; `openai` are more settings of the endpoint."""
    rows = "".join(json.dumps({"query": q, "count": 20 - i}) + "\n" for i, q in enumerate(queries))
    (folder / "queries.jsonl").write_text(rows)
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump({
        "name": "shop", "roles": [{"name": "product"}], "data": {"dir": ".", "queries": "queries.jsonl"},
        "teacher": {"backend": "openai", "openai": {"base_url": url, "model": "m", "prompt": str(PROMPT), **openai}},
    }))
    return path
