from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from eval.dictionary_baseline import Dictionary
from eval.quality import quality
from samples.market.assortment import departments
from samples.market.generate import FILES, generate
from task.load import load_task
from task.readers import read_catalogue, read_conversions, read_labels, read_queries


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    generate(folder, seed=0, queries=20_000, items=6_000)
    return folder


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate(tmp_path / name, seed=3, queries=500, items=800)
    generate(tmp_path / "c", seed=4, queries=500, items=800)
    for file in FILES.values():
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a" / "queries.jsonl").read_bytes() != (tmp_path / "c" / "queries.jsonl").read_bytes()


def test_it_is_as_large_and_varied_as_promised(market: Path) -> None:
    shelves = departments()
    items = read_catalogue(market / "catalogue.jsonl")
    assert len(shelves) >= 12
    assert sum(len(d.types) for d in shelves) >= 150
    assert len({i.brand for i in items}) >= 300
    assert len(items) == 6_000
    assert {a for i in items for a in i.attributes} == {"flavour", "size", "pack", "dietary", "colour"}
    log = read_queries(market / "queries.jsonl")
    assert len({q.query for q in log}) == len(log) == 20_000
    counts = [q.count for q in log]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.02)  # Zipf
    gold = [len(rows(market / FILES[n])) for n in ("calibration", "test")]
    assert gold == [600, 2_000]


def test_conversions_are_noisy_by_a_tenth_or_so(market: Path) -> None:
    """Of the purchases after queries that name a product, 10 to 15 % are of another type."""
    task = load_task("configs/market.yaml").task
    items = {i.id: i for i in read_catalogue(market / "catalogue.jsonl")}
    truth = {}
    for row in read_labels(market / "gold_test.jsonl", task):
        named = [x.text for x in row.labels if x.role == "product"]
        if len(named) == 1:
            truth[row.query] = next(x.text for x in row.labels if x.role == "department")
    bought: Counter[bool] = Counter()
    for c in read_conversions(market / "conversions.jsonl", items):
        if c.query in truth:
            bought[items[c.item_id].values("category.root")[0] == truth[c.query]] += c.count
    assert 0.09 < bought[False] / sum(bought.values()) < 0.15


def test_gold_labels_are_verbatim_and_some_queries_have_none(market: Path) -> None:
    task = load_task("configs/market.yaml").task
    gold = read_labels(market / "gold_test.jsonl", task)  # reading checks every span
    assert 0.005 < sum(not g.labels for g in gold) / len(gold) < 0.06
    assert sum(sum(x.role == "product" for x in g.labels) == 2 for g in gold) > 10


def test_a_dictionary_stays_below_80_f1(market: Path) -> None:
    task = load_task("configs/market.yaml", ["eval.resamples=50"]).task
    gold = read_labels(market / "gold_test.jsonl", task)
    found = Dictionary.from_catalogue(read_catalogue(market / "catalogue.jsonl"), task).predict(gold)
    assert 0.60 < quality(gold, found, task)["value"]["f1"]["value"] < 0.80
