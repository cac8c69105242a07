from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from task.labels import Example, Label
from task.near import cluster_key
from task.normalize import normalize_v1
from teacher.curriculum import build, read, write
from teacher.ledger import LedgerRow
from tests.conftest import make_task

WORDS = ["oat", "milk", "milks", "vegan", "1l", "brand", "soy"]


def row(query: str, status: str = "accepted", confidence: float = 0.9, count: int = 1) -> LedgerRow:
    label = Label("product", query.split()[0], 0, len(query.split()[0]), confidence)
    return LedgerRow(query, count, "", status, (label,), confidence)  # type: ignore[arg-type]


ROWS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=60)


@given(ROWS, st.lists(st.sampled_from(WORDS), max_size=3))
@settings(deadline=None)
def test_no_cluster_is_cut_and_none_holds_a_gold_query(queries: list[str], gold: list[str]) -> None:
    task = make_task(curriculum={"dev_fraction": 0.3})
    made = build(task, [row(q) for q in queries], [Example(g) for g in gold])
    train, dev = ({r.cluster for r in part} for part in (made.train, made.dev))
    assert not train & dev
    assert not (train | dev) & {cluster_key(g, normalize_v1) for g in gold}
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
