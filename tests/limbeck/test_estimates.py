"""One estimate for one job: `limbeck plan`, `limbeck label --plan`, and the ledger of a server that counts tokens."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from limbeck.pipeline import run_up_to
from limbeck.plan import make_plan
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from limbeck.stages.label import plan as plan_labels
from task.load import load_task
from task.model_store import fetch
from task.tokenizer import load_tokenizer
from teacher.ledger.ledger import Ledger
from tests.llm_client.fake_api import PURPOSES, FakeApi
from tests.teacher.test_label import PROMPT

# The server counts with SmolLM2's tokenizer, which is in the cache where the slow tests are run.
pytestmark = pytest.mark.slow

BRANDS = ["Green Valley", "Old Mill", "Sunrise", "Harbour", "Mountain Spring", "Baker Street", "Golden Field"]
THINGS = ["oat milk", "rye bread", "apple juice", "cheddar cheese", "dish soap", "green tea", "tomato soup", "butter"]
SIZES = ["500 g", "1 l", "250 ml", "12 pack"]


def written(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def truth(query: str) -> list[dict[str, str]]:
    """The labels of a query: each brand, thing and size that it has."""
    lists = (("brand", [b.lower() for b in BRANDS]), ("product", THINGS), ("size", SIZES))
    return [{"role": role, "text": v} for role, values in lists for v in values if v in query]


class CountingApi(FakeApi):
    """Answers with the truth, and charges the tokens of the text that it gets and gives."""

    def __init__(self) -> None:
        super().__init__()
        self._tokenizer = load_tokenizer(fetch("SmolLM2-135M-Instruct"))
        self.prompt = self.completion = 0
        self.shape = self._count

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))

    def _count(self, body: dict[str, Any], completion: dict[str, Any]) -> dict[str, Any]:
        system, user = (m["content"] for m in body["messages"])
        verified = system.startswith(PURPOSES["verify"])
        lines = user.partition("Labels:\n")[2].count("\n") + 1
        answer = {"right": [True] * lines} if verified else {"labels": truth(user)}
        for choice in completion["choices"]:
            choice["message"]["content"] = json.dumps(answer)
        prompt = 3 + sum(4 + self._tokens(m["content"]) for m in body["messages"])  # with a chat template's own tokens
        out = len(completion["choices"]) * self._tokens(json.dumps(answer))
        self.prompt += prompt
        self.completion += out
        return completion | {"usage": {"prompt_tokens": prompt, "completion_tokens": out}}


def write_shop(folder: Path, url: str, embedder: Path, openai: Mapping[str, Any]) -> Path:
    """A grocer: 56 items, 100 queries, gold of the same kind."""
    pairs = list(itertools.product(BRANDS, THINGS))
    written(folder / "items.jsonl", [
        {"id": str(i), "title": f"{b} {t.title()} {SIZES[i % 4]}", "brand": b, "category": f"Food > {t.title()}"}
        for i, (b, t) in enumerate(pairs)
    ])
    texts = [f"{b.lower()} {t}" for b, t in pairs] + [f"{t} {s}" for t, s in itertools.product(THINGS, SIZES)]
    texts += [f"cheap {t}" for t in THINGS] + ["something for dinner", "birthday", "party food", "breakfast"]
    written(folder / "queries.jsonl", [{"query": q, "count": 100 - i} for i, q in enumerate(texts)])
    written(folder / "bought.jsonl", [
        {"query": q, "item_id": str((7 * i + k) % 56), "count": 3 - k} for i, q in enumerate(texts[::2]) for k in (0, 1)
    ])
    gold = [f"new {(b.lower(), t, t)[i % 3]} {(t, SIZES[i % 4], '')[i % 3]}".strip() for i, (b, t) in enumerate(pairs)]
    written(folder / "calibration.jsonl", [{"query": q, "labels": truth(q)} for q in dict.fromkeys(gold)])
    written(folder / "test.jsonl", [{"query": f"best {q}", "labels": truth(q)} for q in dict.fromkeys(gold[::3])])
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump({
        "name": "shop", "instructions": "Label the words of a grocery query. Copy values verbatim from the query.",
        "roles": [
            {"name": "brand", "description": "the maker's name", "catalogue": "brand", "grounded": True},
            {"name": "product", "description": "the kind of product", "catalogue": "category.leaf"},
            {"name": "size", "description": "amount with its unit"},
        ],
        "data": {"dir": ".", "queries": "queries.jsonl", "catalogue": "items.jsonl", "conversions": "bought.jsonl",
                 "gold": {"calibration": "calibration.jsonl", "test": "test.jsonl"}},
        "teacher": {"backend": "openai", "retrieval": {"embedder": str(embedder)}, "openai": {
            "base_url": url, "model": "m", "prompt": str(PROMPT), "price_input_per_million": 1.0,
            "price_output_per_million": 4.0, **openai,
        }},
    }))
    return path


@pytest.mark.parametrize("signals", [
    {}, {"verify": True}, {"samples": 3, "compare_bare": True, "verify": True, "few_shot": 2}, {"context": []},
], ids=["label", "verify", "all signals", "no context"])
def test_both_plans_and_the_ledger_agree(
    tmp_path: Path, embedder_folder: Path, signals: Mapping[str, Any]
) -> None:
    with CountingApi() as api:
        loaded = load_task(write_shop(tmp_path, api.url, embedder_folder, signals))
        run = Run.of(loaded.task, tmp_path / "runs", ProgressDisplay())
        ahead = {line.name: line.value for line in make_plan(loaded, run)["teacher"]}
        planned = plan_labels(run)
        assert api.bodies == []
        run_up_to(run, "label")
        with Ledger(run.files.ledger) as ledger:
            spent = ledger.spent()
        assert (spent["prompt_tokens"], spent["completion_tokens"]) == (api.prompt, api.completion)
        assert plan_labels(run).calls == 0
    tokens_in, tokens_out = (int(part.split()[0].replace(",", "")) for part in ahead["tokens"].split(", "))
    calls = int(ahead["calls"].replace(",", ""))
    cost = (tokens_in + 4 * tokens_out) / 1e6
    assert planned.cost is not None
    for estimated in (calls, planned.calls):
        assert estimated == pytest.approx(spent["attempts"], rel=0.1)
    for estimate in ((tokens_in, tokens_out), planned.tokens):
        assert estimate == pytest.approx((spent["prompt_tokens"], spent["completion_tokens"]), rel=0.1)
    assert [cost, planned.cost] == pytest.approx([spent["cost"]] * 2, rel=0.1)
