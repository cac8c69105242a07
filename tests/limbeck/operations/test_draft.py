"""`limbeck init`: the task file that it drafts passes the checks, and says what each guess rests on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from limbeck.checks.checks import check
from limbeck.operations.draft import Drafted, draft, render
from limbeck.operations.draft_tables import tables_in
from limbeck.progress_display import ProgressDisplay
from limbeck.run import Run
from task.errors import InputError
from task.files import write_jsonl
from task.load import load_task
from tests.limbeck.test_cli import in_process as limbeck
from tests.teacher.test_label import PROMPT

BRANDS, THINGS, COLOURS = ["Lumo", "Quill", "Petrel"], ["Lamp", "Desk", "Chair", "Shelf"], ["red", "black", "oak"]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_furniture(tmp_path / "furniture")


def write_furniture(folder: Path) -> Path:
    """A furniture shop as its systems export it: other names of columns, and files that are none of ours."""
    folder.mkdir()
    items = [
        {"sku": f"00{i}{k}{c}", "product_name": f"{b} {t} {colour}", "manufacturer": b, "category": f"Home > {t}",
         "Colour": colour, "price": f"{9 + i}.{k}0", "image": f"https://shop/{i}{k}{c}.png"}
        for i, b in enumerate(BRANDS) for k, t in enumerate(THINGS) for c, colour in enumerate(COLOURS)
    ]
    write_csv(folder / "products.csv", items)
    terms = [f"{b.lower()} {t.lower()}" for b in BRANDS for t in THINGS] + [f"{c} {t.lower()}" for c in COLOURS
                                                                          for t in THINGS]
    write_csv(folder / "searches.tsv", [{"searchTerm": q, "searches": 90 - i} for i, q in enumerate(terms)], "\t")
    pq.write_table(pa.Table.from_pylist([
        {"searchTerm": terms[i % len(terms)], "sku": x["sku"], "orders": 1 + i % 3} for i, x in enumerate(items)
    ]), folder / "orders.parquet")
    gold = [
        {"query": f"{c} {b.lower()} {t.lower()}", "labels": [
            {"role": "maker", "text": b.lower()}, {"role": "thing", "text": t.lower()}, {"role": "colour", "text": c},
            {"role": "room", "text": "office" if t in ("Desk", "Chair") else "living room"},
        ]}
        for b in BRANDS for t in THINGS for c in COLOURS
    ]
    for name, rows in (("gold_test", gold[::2]), ("gold_calibration", gold[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write_csv(folder / "stores.csv", [{"store": "north", "city": "Oslo"}])
    (folder / "README.txt").write_text("Exported on Monday.")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_becomes_a_task_that_passes_the_checks(
    shop: Path, tmp_path: Path, tiny_llama: Path, embedder_folder: Path
) -> None:
    before, out = contents(shop), tmp_path / "tasks" / "Our Shop.yaml"
    drafted = draft(shop, out)
    assert contents(shop) == before
    settings = (f"student.base={tiny_llama}", f"teacher.retrieval.embedder={embedder_folder}")
    task = load_task(out, settings).task
    run = Run.of(task, tmp_path / "runs", ProgressDisplay())
    assert [f.text for f in check(run) if f.state == "bad"] == []
    assert (task.name, task.teacher.backend) == ("our-shop", "catalog")
    sources = run.inputs.teacher
    assert (len(sources.log), len(sources.catalogue), len(sources.conversions)) == (24, 36, 36)
    assert (len(sources.calibration), len(run.inputs.test)) == (18, 18)
    assert sources.log[0].count == 90
    item = sources.catalogue[0]
    assert (item.id, item.title, item.brand, item.attributes) == ("00000", "Lumo Lamp red", "Lumo", {"colour": "red"})
    roles = {r.name: (r.kind, r.catalogue, r.multiple) for r in task.roles}
    assert roles == {
        "maker": ("open", "brand", False), "thing": ("open", "category.leaf", False),
        "colour": ("open", "attributes.colour", False), "room": ("closed", None, False),
    }
    assert task.role("room").values == ("living room", "office")
    assert task.role("maker").grounded
    shown = render(drafted, out)
    assert "searches.tsv is data.queries: a column of queries" in shown
    assert "count = searches" in shown
    assert "stores.csv is not used: its columns are store, city" in shown
    assert "100% of them are in brand" in shown
    assert "# 36 labels" in out.read_text()


def test_without_gold_the_roles_are_what_the_catalogue_holds(shop: Path, tmp_path: Path) -> None:
    for path in shop.glob("gold*"):
        path.unlink()
    draft(shop, tmp_path / "task.yaml")
    task = load_task(tmp_path / "task.yaml").task
    roles = {r.name: r for r in task.roles}
    assert roles.keys() == {"brand", "department", "product", "colour"}
    assert (roles["department"].values, roles["department"].requires) == (("Home",), ("product",))
    assert [n for n, r in roles.items() if r.grounded] == ["brand"]


@pytest.mark.parametrize(("count", "found"), [
    ("n_searches", True), ("Number of searches", True), ("totalSearches", True), ("visitors", False),
])
def test_columns_that_are_not_read_are_named_and_so_is_a_missing_count(
    shop: Path, tmp_path: Path, count: str, found: bool
) -> None:
    (shop / "searches.tsv").unlink()
    rows = [{"searchTerm": q, count: 9, "locale": "de"} for q in ("Lumo Lamp red", "Lumo Lamp", "lamp", "red lamp")]
    write_csv(shop / "log.csv", rows)
    shown = render(draft(shop, tmp_path / "task.yaml"), tmp_path / "task.yaml")
    assert (f"count = {count}" in shown) == found
    assert f"    not read: {'locale' if found else f'{count}, locale'}\n" in shown
    assert ("no column of counts was found: every row counts once" in shown) != found


@pytest.mark.parametrize(("rows", "student"), [
    (40, {"batch_size": 16, "epochs": 10}), (500, {"batch_size": 16, "epochs": 8}), (5_000, None),
])
def test_a_training_on_few_rows_is_drafted_with_enough_passes(
    tmp_path: Path, rows: int, student: dict[str, int] | None
) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    write_jsonl(folder / "labels.jsonl", (
        {"query": f"oat milk {i}", "labels": [{"role": "product", "text": "oat milk", "start": 0, "end": 8}]}
        for i in range(rows)
    ))
    write_jsonl(folder / "gold_test.jsonl", (
        {"query": f"rice milk {i}", "labels": [{"role": "product", "text": "rice milk", "start": 0, "end": 9}]}
        for i in range(10)
    ))
    draft(folder, tmp_path / "task.yaml")
    assert yaml.safe_load((tmp_path / "task.yaml").read_text()).get("student") == student


def test_files_with_our_names_are_used_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    write_csv(folder / "queries.csv", [{"query": "oat milk", "count": 3}])
    (folder / "labels.jsonl").write_text('{"query": "oat milk", "labels": [{"role": "product", "text": "milk"}]}\n')
    drafted = draft(folder, tmp_path / "task.yaml")
    task = load_task(tmp_path / "task.yaml").task
    assert (drafted.copies, task.teacher.backend, task.data.labels) == ({}, "labels", "labels.jsonl")
    assert task.data.queries == "queries.csv"  # for its counts
    assert not (tmp_path / "task-data").exists()


def test_a_log_that_lacks_labelled_queries_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    """A task with both labels the queries of its log alone: those labels would be lost."""
    folder = tmp_path / "shop"
    folder.mkdir()
    write_csv(folder / "queries.csv", [{"query": "oat milk", "count": 3}])
    labels = [{"role": "product", "text": "milk"}]
    rows = [json.dumps({"query": q, "labels": labels}) + "\n" for q in ("oat milk", "soy milk")]
    (folder / "labels.jsonl").write_text("".join(rows))
    drafted = draft(folder, tmp_path / "task.yaml")
    data = load_task(tmp_path / "task.yaml").task.data
    assert (data.queries, data.labels) == (None, "labels.jsonl")
    shown = render(drafted, tmp_path / "task.yaml")
    assert "queries.csv is data.queries" not in shown
    assert "queries.csv is not used: 1 of 2 labelled queries are not in it" in shown


def test_of_two_logs_the_one_with_the_labelled_queries_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    write_csv(folder / "asked.csv", [{"query": "oat milk", "orders": 9}])
    write_csv(folder / "searches.csv", [{"Search Phrase": q, "searches": 3} for q in ("oat milk", "rye")])
    write_jsonl(folder / "train.jsonl", (
        {"query": q, "labels": [{"role": "product", "text": q}]} for q in ("oat milk", "rye")
    ))
    shown = render(draft(folder, tmp_path / "task.yaml"), tmp_path / "task.yaml")
    assert "searches.csv is data.queries" in shown
    assert "asked.csv is not used: searches.csv is taken for data.queries already" in shown


def test_numbers_of_articles_are_ids_and_odd_sizes_are_attributes(tmp_path: Path) -> None:
    sizes = ["010-046", "3m", "61 keys", "009-042"]
    rows = [
        {"Article No": f"00{i}", "Item Name": f"cable {i}", "Size": sizes[i % 4], "Price": f"{9 + i % 3},50 €",
         "Since": f"2026-0{1 + i % 3}-11", "Stock": i % 3} for i in range(12)
    ]
    write_csv(tmp_path / "catalogue.csv", rows)
    write_csv(tmp_path / "sold.csv", [{"Search Phrase": "cable", "Article No": "003", "Units": 2}])
    catalogue, sold = tables_in(tmp_path)[0]
    assert (catalogue.kind, sold.kind) == ("catalogue", "conversions")
    assert catalogue.columns == {"id": "Article No", "title": "Item Name"}
    assert (catalogue.attributes, catalogue.unread) == (["Size"], ["Price", "Since", "Stock"])
    assert sold.columns == {"query": "Search Phrase", "item_id": "Article No", "count": "Units"}


def test_a_catalogue_that_lacks_its_ids_is_told_so(tmp_path: Path) -> None:
    write_csv(tmp_path / "catalogue.csv", [{"Item Name": "cable", "Artikel": "1"}])
    with pytest.raises(InputError, match="'Item Name' is a title of items, but none is their id"):
        tables_in(tmp_path)


@pytest.mark.parametrize("there", ["task.yaml", "task-data"])
def test_nothing_is_overwritten(shop: Path, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(InputError, match="nothing is overwritten"):
        draft(shop, tmp_path / "task.yaml")
    assert (tmp_path / there).read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"furniture", there}


def test_a_prompt_that_is_not_there_is_an_error_and_nothing_is_written(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.j2: --prompt: no such file"):
        draft(shop, tmp_path / "task.yaml", tmp_path / "nope.j2")
    assert {p.name for p in tmp_path.iterdir()} == {"furniture"}


def test_what_cannot_be_a_task_is_said(shop: Path, tmp_path: Path) -> None:
    def drafted(**more: Any) -> Drafted:
        return draft(shop, tmp_path / "task.yaml", **more)

    (shop / "products.csv").unlink()
    with pytest.raises(InputError, match=r"orders\.parquet: purchases without a catalogue"):
        drafted(prompt=PROMPT)
    (shop / "orders.parquet").unlink()
    with pytest.raises(InputError, match="nothing here can label the queries"):
        drafted()
    drafted(prompt=PROMPT)
    assert load_task(tmp_path / "task.yaml").task.teacher.backend == "openai"
    (shop / "searches.tsv").unlink()
    (shop / "log.csv").write_text("Serch Trm,hits\noak table,3\n")
    with pytest.raises(InputError, match="no table of queries") as caught:
        draft(shop, tmp_path / "other.yaml", prompt=PROMPT)
    assert "log.csv: its columns are Serch Trm, hits: none of queries (query, search query, search term, …)" in str(
        caught.value
    )
    (shop / "log.csv").unlink()
    with pytest.raises(InputError, match="no such folder"):
        draft(tmp_path / "none", tmp_path / "other.yaml")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "broken.csv").write_text("query,count\na\n")
    with pytest.raises(InputError, match=r"broken\.csv: .*wrong number of columns"):
        draft(empty, tmp_path / "other.yaml")
    assert not (tmp_path / "other.yaml").exists()


def test_a_catalogue_with_keywords_is_no_log(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"id": 1, "name": "Lamp", "keywords": "light"}])
    write_csv(tmp_path / "b.csv", [{"Search Term": "lamp", "item": "1", "title": "Lamp"}])
    found, _ = tables_in(tmp_path)
    assert [(t.path.name, t.kind) for t in found] == [("a.csv", "catalogue"), ("b.csv", "conversions")]


def test_the_command_says_what_to_do_next(shop: Path, tmp_path: Path) -> None:
    done = limbeck("init", shop, "--out", tmp_path / "task.yaml")
    assert done.returncode == 0, done.stderr
    assert f"limbeck check {tmp_path / 'task.yaml'}" in done.stdout
    again = limbeck("init", shop, "--out", tmp_path / "task.yaml")
    assert (again.returncode, "nothing is overwritten" in again.stderr) == (2, True)
