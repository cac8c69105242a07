from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from task.labels import Doubt, Example, Label, Labelling
from task.near_duplicates import near
from task.normalize import normalize_v1
from teacher.curriculum.build import build
from teacher.curriculum.rows import Curriculum, read, write
from teacher.ledger.records import LedgerRow
from teacher.ledger.reviews import Verdict
from tests.conftest import make_task

WORDS = ["oat", "milk", "milks", "vegan", "vegna", "1l", "brand", "bran", "soy"]


def row(query: str, status: str = "accepted", confidence: float = 0.9, count: int = 1) -> LedgerRow:
    label = Label("product", query.split()[0], 0, len(query.split()[0]), confidence)
    return LedgerRow(query, count, "", status, (label,), confidence)  # type: ignore[arg-type]


ROWS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=60)


@given(ROWS, st.lists(st.sampled_from(WORDS), max_size=3))
@settings(deadline=None)
def test_no_cluster_is_cut_and_none_holds_a_gold_query(queries: list[str], gold: list[str]) -> None:
    task = make_task(curriculum={"dev_fraction": 0.3})
    made = build(task, [row(q) for q in queries], [Example(g) for g in gold])
    train, dev = ([r.example.query for r in part] for part in (made.train, made.dev))
    for one, other in (*itertools.product(train, dev), *itertools.product(train + dev, gold)):
        assert not near(one, other, normalize_v1)
    distinct = {normalize_v1(q) for q in queries}
    kept = [normalize_v1(r.example.query) for r in (*made.train, *made.dev)]
    assert len(kept) == len(set(kept))
    left = sum(n for reason, n in made.left_out.items() if reason != "duplicate")
    assert len(kept) + left >= len(distinct)


@given(ROWS)
@settings(deadline=None)
def test_traffic_survives_deduplication(queries: list[str]) -> None:
    made = build(make_task(), [row(q, count=3) for q in queries])
    assert sum(r.example.count for r in (*made.train, *made.dev)) == 3 * len(queries)


def test_doubtful_and_rejected_rows_are_left_out_and_counted() -> None:
    rows = [row("oat a"), row("oat b", "partial"), row("oat c", "failed"), row("oat d", confidence=0.2)]
    made = build(make_task(curriculum={"min_confidence": 0.5}), rows)
    assert [r.example.query for r in (*made.train, *made.dev)] == ["oat a"]
    assert made.left_out == {"partial": 1, "failed": 1, "low confidence": 1}


def test_rows_with_a_doubtful_label_are_learned_from_where_it_will_be_masked() -> None:
    rows = [row("oat a"), row("soy b", "uncertain", 0.3), row("tea c", "partial")]
    made = build(make_task(curriculum={"doubtful": "mask"}), rows, threshold=0.5)
    doubts = {r.example.query: r.doubts for r in (*made.train, *made.dev)}
    assert doubts == {"oat a": (), "soy b": (Doubt("product", 0, 3),)}
    assert made.left_out == {"partial": 1}


def test_orders() -> None:
    rows = [row(" ".join(f"w{i}x{j}" for j in range(1 + i % 7))) for i in range(50)]
    easy = build(make_task(curriculum={"order": "easy-to-hard"}), rows).train
    hard = build(make_task(curriculum={"order": "hard-to-easy"}), rows).train
    assert [r.difficulty for r in easy] == sorted(r.difficulty for r in easy)
    assert [r.difficulty for r in hard] == sorted((r.difficulty for r in hard), reverse=True)
    one, two = (build(make_task(curriculum={"seed": s}), rows).train for s in (1, 1))
    assert one == two


def test_the_folder_opens_with_datasets_and_reads_back(tmp_path: Path) -> None:
    import datasets

    made = build(make_task(), [row(f"oat{i} milk") for i in range(40)])
    write(made, make_task(), tmp_path)
    opened = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert (len(opened["train"]), len(opened["dev"])) == (38, 2)
    back = read(tmp_path, "train")
    assert [r.example.query for r in back] == [r.example.query for r in made.train]
    assert [r.example.labels[0].key for r in back] == [r.example.labels[0].key for r in made.train]


@settings(max_examples=30)
@given(n=st.integers(1, 120), seed=st.integers(0, 5))
def test_growing_draws_every_row_once_and_the_hardest_never_first(n: int, seed: int) -> None:
    rows = [row(" ".join(f"w{i}x{j}" for j in range(1 + i % 9)), count=1) for i in range(n)]
    orders = {
        order: build(make_task(curriculum={"order": order, "seed": seed, "dev_fraction": 0.01}), rows).train
        for order in ("growing", "easy-to-hard")
    }
    growing, easy = ([r.example.query for r in orders[o]] for o in ("growing", "easy-to-hard"))
    assert sorted(growing) == sorted(easy)
    if n >= 30:
        place = {q: i / len(easy) for i, q in enumerate(easy)}
        assert place[growing[0]] <= 0.15
        first, second = growing[: len(growing) // 2], growing[len(growing) // 2 :]
        assert sum(place[q] for q in first) / len(first) < sum(place[q] for q in second) / len(second)


def test_a_frequent_pattern_is_capped_and_its_most_frequent_queries_stay() -> None:
    rows = [
        LedgerRow(f"brand{i} oat milk", i + 1, "", "accepted", (Label("brand", f"brand{i}", 0, 5 + len(str(i))),), 0.9)
        for i in range(40)
    ]
    rows += [row("rare find")]
    task = make_task(curriculum={"pattern_roles": ["brand"], "max_per_pattern": 10})
    made = build(task, rows)
    kept = {r.example.query for r in (*made.train, *made.dev)}
    assert kept == {"rare find", *(f"brand{i} oat milk" for i in range(30, 40))}
    assert made.left_out["over max_per_pattern"] == 30


def test_rows_know_their_stratum_and_the_card_tells(tmp_path: Path) -> None:
    task = make_task(eval={"head": 2, "torso": 5})
    rows = [row(f"q{i} thing", count=100 - i) for i in range(20)]
    made = build(task, rows)
    strata = {r.example.query: r.stratum for r in (*made.train, *made.dev)}
    assert [strata[f"q{i} thing"] for i in (0, 1, 2, 4, 5, 19)] == ["head", "head", "torso", "torso", "tail", "tail"]
    write(made, task, tmp_path)
    kept = [(r.example.query, r.example.count, r.cluster, r.stratum) for r in read(tmp_path, "train")]
    assert kept == [(r.example.query, r.example.count, r.cluster, r.stratum) for r in made.train]
    card = (tmp_path / "README.md").read_text()
    assert "| tail |" in card
    assert (tmp_path / "plots" / "noise.svg").read_text().startswith("<svg")


def test_the_file_has_noise_in_float32_and_training_weighs_by_one_minus_it(tmp_path: Path) -> None:
    made = build(make_task(), [row(f"thing{i} milk", confidence=round(0.6 + i * 0.0123457, 6)) for i in range(30)])
    write(made, make_task(), tmp_path / "once")
    file = tmp_path / "once" / "data" / "train.parquet"
    noise = pq.read_table(file)["noise"].to_pylist()
    assert noise == [float(np.float32(round(1 - r.confidence, 4))) for r in made.train]
    again = read(tmp_path / "once", "train")
    assert [r.confidence for r in again] == [1.0 - n for n in noise]
    write(Curriculum(again, read(tmp_path / "once", "dev"), {}), make_task(), tmp_path / "twice")
    assert (tmp_path / "twice" / "data" / "train.parquet").read_bytes() == file.read_bytes()


def test_queries_of_other_domains_are_rows_without_labels_unless_the_log_or_gold_has_them() -> None:
    outliers = [Example(q) for q in ("turn on the light", "Oat  Milk", "soy milk", "turn on the light")]
    made = build(make_task(), [row("oat milk"), row("vegan bread")], [Example("soy milk")], outliers=outliers)
    labels = {r.example.query: len(r.example.labels) for r in (*made.train, *made.dev)}
    assert labels == {"oat milk": 1, "vegan bread": 1, "turn on the light": 0}
    assert made.left_out == {"outlier that is a query of the log or of gold": 2}
    assert all(r.confidence == 1.0 for r in made.train if not r.example.labels)


def decided(query: str, labels: Labelling = (), outcome: str = "labels", *, gold: bool = False) -> Verdict:
    return Verdict(
        query=query, count=2, outcome=outcome, gold=gold, labels=labels, before=(), people=("ada",)  # type: ignore[arg-type]
    )


def test_what_people_decided_replaces_the_teachers_labels_and_weighs_1() -> None:
    mine = (Label("brand", "oat", 0, 3),)
    rows = [row("oat a", "failed"), row("soy b"), row("soy c"), row("soy d"), row("soy e")]
    verdicts = {v.query: v for v in (
        decided("oat a", mine), decided("soy b", outcome="rejected"), decided("soy c", outcome="disputed"),
        decided("soy d", mine, gold=True), decided("1l new", mine),
    )}
    made = build(make_task(curriculum={"min_confidence": 0.95}), rows, (), 0.5, (), verdicts)
    assert {r.example.query: (r.example.labels, r.confidence) for r in made.train} == {
        "oat a": (mine, 1.0), "1l new": (mine, 1.0),
    }
    assert made.left_out == {
        "rejected by a person": 1, "people disagree": 1, "gold by a person's decision": 1, "low confidence": 1,
    }


def test_of_duplicates_the_one_that_people_decided_stays_with_the_traffic_of_all() -> None:
    mine = (Label("brand", "Oat", 0, 3),)
    made = build(make_task(), [row("oat milk", count=5), row("Oat  milk")], verdicts={
        "Oat  milk": decided("Oat  milk", mine)
    })
    (kept,) = made.train
    assert (kept.example.query, kept.example.labels, kept.example.count) == ("Oat  milk", mine, 6)


def test_limits_leave_out_other_rows_first() -> None:
    rows = [row(f"{w} milk", count=9) for w in ("oat", "soy", "bran", "vegan", "1l", "tea")]
    mine = decided("tea milk", (Label("product", "tea", 0, 3),))
    limits = {"max_per_pattern": 2, "pattern_roles": ["product"]}
    rows[-1] = replace(rows[-1], count=1)
    made = build(make_task(curriculum=limits), rows, verdicts={mine.query: mine})
    assert len(made.train) == 2
    assert "tea milk" in {r.example.query for r in made.train}
    made = build(make_task(curriculum={"max_rows": 1}), rows, verdicts={mine.query: mine})
    assert [r.example.query for r in made.train] == ["tea milk"]
