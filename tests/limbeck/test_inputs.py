from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limbeck.inputs import Inputs
from task.errors import InputError, InputWarning
from task.labels import Label
from teacher.ledger.reviews import Review, Reviews
from tests.conftest import make_task

LLM = {"backend": "openai", "openai": {"prompt": "x"}}


def test_no_calibration_row_near_a_test_row_can_become_an_example(tmp_path: Path) -> None:
    """Another order, a plural, a slip of the finger, and a slip of a slip; not another product."""
    tables = {
        "queries": ["oat milk"],
        "calibration": ["milks oat", "vegan cheese", "vegan chese", "vegan cheses x", "soy milk"],
        "test": ["oat milk", "vegan cheeze"],
    }
    for name, queries in tables.items():
        rows = (json.dumps({"query": q, "labels": []}) for q in queries)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    gold = {"calibration": "calibration.jsonl", "test": "test.jsonl"}
    data = {"dir": tmp_path, "queries": "queries.jsonl", "gold": gold}
    inputs = Inputs(make_task(data=data, teacher=LLM), tmp_path / "run")
    assert inputs.teacher.held_out == {"milks oat", "vegan cheese", "vegan chese"}


def inputs_of(folder: Path, data: dict[str, Any], **task: Any) -> Inputs:
    return Inputs(make_task(data={"dir": folder, **data}, **({"teacher": LLM} | task)), folder / "run")


def table(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path.name


def labelled(query: str, role: str, text: str, count: int = 1) -> dict[str, Any]:
    return {"query": query, "labels": [{"role": role, "text": text}], "count": count}


def test_a_folder_is_an_input_that_changes_with_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "queries.parquet"
    folder.mkdir()
    for n in range(2):
        pq.write_table(pa.table({"query": [f"oat {n}"]}), folder / f"part-{n}.parquet")
    inputs = inputs_of(tmp_path, {"queries": folder.name})
    before = inputs.fingerprint("queries")
    (folder / "_SUCCESS").touch()
    assert inputs.fingerprint("queries") == before
    assert [q.query for q in inputs.teacher.log] == ["oat 0", "oat 1"]
    pq.write_table(pa.table({"query": ["rye"]}), folder / "part-1.parquet")
    assert inputs.fingerprint("queries") != before


def test_a_missing_input_is_named_by_its_fingerprint_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: no such file. Check data\.dir and the file names"):
        inputs_of(tmp_path, {"queries": "none.jsonl"}).fingerprint("queries")


@pytest.mark.parametrize("where", ["working directory", "beside the task file"])
def test_a_table_that_lies_elsewhere_is_named(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export goes where the command is given; `data.labels` is looked for in `data.dir`."""
    here, shop = tmp_path / "here", tmp_path / "shop"
    for folder in (here, shop / "data"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    (here if where == "working directory" else shop).joinpath("corrected.csv").write_text("query,labels\n")
    with pytest.raises(InputError) as caught:
        inputs_of(shop / "data", {"labels": "corrected.csv"}).fingerprint("labels")
    found = "corrected.csv" if where == "working directory" else shop / "corrected.csv"
    assert f"There is {found}, but" in str(caught.value)
    assert f"move it to {shop / 'data'}, or" in str(caught.value)


@pytest.mark.parametrize(("choice", "log", "roles"), [
    ("last", [("oat", 2), ("oat", 5), ("rye", 1)], ["product", "product", "product"]),
    ("first", [("oat", 2), ("oat", 5), ("rye", 1)], ["brand", "brand", "product"]),
    ("leave-out", [("rye", 1)], ["product"]),
])
def test_a_query_with_two_labellings(tmp_path: Path, choice: str, log: list[Any], roles: list[str]) -> None:
    rows = labelled("oat", "brand", "oat", 2), labelled("oat", "product", "oat", 5), labelled("rye", "product", "rye")
    name = table(tmp_path / "l.jsonl", *rows)
    with pytest.warns(InputWarning, match="1 queries have rows with different labels .'oat' in lines 1, 2.*conflicts"):
        sources = inputs_of(tmp_path, {"labels": name, "conflicts": choice}).teacher
    assert [(q.query, q.count) for q in sources.log] == log
    assert [x.labels[0].role for x in sources.imported] == roles


def test_labels_that_the_backend_does_not_use_are_told(tmp_path: Path) -> None:
    data = {"queries": table(tmp_path / "q.jsonl", {"query": "oat"}),
            "labels": table(tmp_path / "l.jsonl", labelled("oat", "brand", "oat"))}
    inputs = inputs_of(tmp_path, data)
    with pytest.warns(InputWarning, match="data.labels: these labels are not used"):
        assert inputs.teacher.log[0].query == "oat"


def test_conversions_without_a_catalogue_are_refused(tmp_path: Path) -> None:
    data = {"queries": table(tmp_path / "q.jsonl", {"query": "oat"}),
            "conversions": table(tmp_path / "v.jsonl", {"query": "oat", "item_id": "1"})}
    with pytest.raises(InputError, match="expected a catalogue that has items"):
        _ = inputs_of(tmp_path, data).teacher


@pytest.mark.parametrize("grounded", [False, True])
def test_a_catalogue_field_that_no_item_has(tmp_path: Path, grounded: bool) -> None:
    item = {"id": "1", "title": "Oat", "brand": "Oatly", "attributes": {"colour": "white"}}
    data = {"queries": table(tmp_path / "q.jsonl", {"query": "oat"}), "catalogue": table(tmp_path / "c.jsonl", item)}
    roles = [{"name": "brand", "catalogue": "brand"},
             {"name": "color", "catalogue": "attributes.color", "grounded": grounded}]
    inputs = inputs_of(tmp_path, data, roles=roles)
    said = r"no item has the field 'attributes.color' of role 'color'.*attributes\.colour"
    with pytest.raises(InputError, match=said) if grounded else pytest.warns(InputWarning, match=said):
        assert inputs.teacher.catalogue


def test_queries_of_other_domains_are_a_table_of_their_own(tmp_path: Path) -> None:
    log = table(tmp_path / "q.jsonl", {"query": "oat milk"})
    other = table(tmp_path / "other.jsonl", {"query": "turn on the light"}, {"query": "play some jazz"})
    inputs = inputs_of(tmp_path, {"queries": log, "outliers": other})
    assert [(x.query, x.labels) for x in inputs.outliers] == [("turn on the light", ()), ("play some jazz", ())]
    assert [q.query for q in inputs.teacher.log] == ["oat milk"]  # no teacher is asked about them
    without = inputs_of(tmp_path, {"queries": log})
    assert (without.outliers, without.source("outliers")) == ([], None)
    assert "outliers" not in without.task.model_dump(mode="json")["data"]  # what a stage depends on is unchanged
    with pytest.raises(ValueError, match="`outliers` needs `dir` or `hub`"):
        make_task(data={"sample": "market", "outliers": other})


def decide(ledger: Path, query: str, text: str, queue: str = "uncertain", decision: str = "correct") -> None:
    labels = (Label("brand", text, query.index(text), query.index(text) + len(text)),)
    with Reviews(ledger) as reviews:
        reviews.add(Review(
            token=f"{query} {queue}", query=query, count=7, queue=queue, person="ada", decision=decision, created=1.0,  # type: ignore[arg-type]
            labels=labels, before=(),
        ))


def test_people_correct_gold_and_audits_are_added_to_it_and_what_reads_it_is_stale(tmp_path: Path) -> None:
    gold = [labelled("oat milk", "product", "milk"), labelled("rye bread", "product", "bread"),
            labelled("vegan tea", "product", "tea")]
    gold_files = {"test": table(tmp_path / "test.jsonl", *gold),
                  "calibration": table(tmp_path / "calibration.jsonl", labelled("soy yoghurt", "product", "yoghurt"))}
    queries = table(tmp_path / "queries.jsonl", {"query": "kefir plain"})
    ledger = tmp_path / "ledger.sqlite"

    def opened() -> Inputs:
        return Inputs(make_task(data={"dir": tmp_path, "queries": queries, "gold": gold_files}, teacher=LLM),
                      tmp_path / "run", ledger)

    before = {name: opened().fingerprint(name) for name in ("test", "calibration", "queries")}
    decide(ledger, "unrelated query", "query")  # learned, so that gold is as it was
    assert {name: opened().fingerprint(name) for name in before} == before
    decide(ledger, "oat milk", "oat", "mistakes")
    decide(ledger, "rye bread", "rye", "mistakes", "reject")
    decide(ledger, "kefir plain", "kefir", "audit")
    inputs = opened()
    assert [(x.query, [y.role for y in x.labels], x.count) for x in inputs.test] == [
        ("oat milk", ["brand"], 1), ("vegan tea", ["product"], 1), ("kefir plain", ["brand"], 7),
    ]
    assert [n for n in before if inputs.fingerprint(n) != before[n]] == ["test"]
    decide(ledger, "soy yoghurt", "soy", "audit")  # a row of gold stays in its table
    inputs = opened()
    assert [[y.role for y in x.labels] for x in inputs.calibration] == [["brand"]]
    assert len(inputs.test) == 3
    assert inputs.fingerprint("calibration") != before["calibration"]
