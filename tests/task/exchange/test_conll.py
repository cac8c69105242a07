"""CoNLL files of other programs, and lines that are no such file."""

from __future__ import annotations

from pathlib import Path

import pytest

from task.errors import InputError
from task.exchange.annotated import Annotated, Loss
from task.exchange.conll import Columns, read_conll
from task.exchange.conll_write import write_conll
from task.labels import Example, Label
from task.spec import Task


def read(path: Path, task: Task, columns: str | None = None) -> tuple[list[Annotated], list[Loss]]:
    losses: list[Loss] = []
    return list(read_conll(path, task, losses, columns=Columns.of(columns) if columns else None)), losses


def written(folder: Path, text: str) -> Path:
    path = folder / "file.conll"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_columns_of_2003_with_documents_and_a_hash_as_token(fixtures: Path, shop: Task) -> None:
    found, losses = read(fixtures / "conll2003.txt", shop)
    assert [(x.example.query, x.example.labels, x.place.line) for x in found] == [
        ("oatly milk", (Label("brand", "oatly", 0, 5),), 3),
        ("# alpro oatly .", (Label("brand", "alpro", 2, 7), Label("brand", "oatly", 8, 13)), 6),
    ]
    assert [(x.reason, x.what) for x in losses] == [("column", "2 beside token and tag")]


def test_what_the_converter_of_label_studio_makes(fixtures: Path, shop: Task) -> None:
    """No empty line after its mark of a document, and a role with a blank in its name."""
    found, _ = read(fixtures / "label_studio.conll", shop)
    assert [x.example.query for x in found][2:] == ["gift card", "gift card", "milk", "bread"]
    assert found[1].example.labels == (Label("brand", "oatly", 5, 10), Label("product type", "oat milk", 11, 19))


def test_columns_in_another_order(tmp_path: Path, shop: Task) -> None:
    path = written(tmp_path, "1 B-brand oatly\n2 O milk\n")
    (found,), _ = read(path, shop, "number,tag,token")
    assert found.example == Example("oatly milk", (Label("brand", "oatly", 0, 5),))


@pytest.mark.parametrize("columns", ["token", "token,token,tag", "a,b", ""])
def test_columns_without_token_or_tag(columns: str) -> None:
    with pytest.raises(InputError, match="--columns: not a list of columns"):
        Columns.of(columns)


def test_comments_of_others_are_told_and_line_ends_do_not_matter(tmp_path: Path, shop: Task) -> None:
    path = written(tmp_path, "# newdoc\r\n\r\n# source = shop\r\noat\tB-brand\r\n \r\n")
    (found,), losses = read(path, shop)
    assert found.example == Example("oat", (Label("brand", "oat", 0, 3),))
    assert [(x.reason, x.what, x.place.line) for x in losses] == [
        ("comment", "# newdoc", 1), ("comment", "# source = shop", 3),
    ]


@pytest.mark.parametrize(("text", "expected"), [
    ("oat\n", r":1: wrong number of columns; found 'oat'"), ("oat O\nmilk\n", ":2: wrong number of columns"),
    ("oat\tO\nmilk\tx\tO\n", ":2: wrong number of columns.*2 columns"),
    ("oat O\nmilk brand\n", ":2: tag: unknown tag; found 'brand'"),
    ("oat O\n\nmilk B-colour\n", ":3: tag: unknown role 'colour'"),
    ("a B-brand\nb E-brand\nc L-brand\n", ":3: tag: tags of two schemes"),
    ("a B-brand\nb E-brand\n\nc B-brand\n", ":5: tag: a span without"),
    ("# text = oat milk\noat\tO\nmilch\tO\n", ":3: token: the token is not what comes next"),
    ("# text = oat milk\noat\tO\n", "# text: more words than tokens; found ' milk'"),
    ("oat\tO\n# text = oat\n", ":2: a comment in the wrong place"),
    ("# count = 2\n# count = 3\noat\tO\n", ":2: a comment in the wrong place"),
    ("# count = x\noat\tO\n", "# count: not a count; found 'x'"),
    ("# labels = [\noat\tO\n", ":1: # labels: not what was written there"),
    ("# labels = [3]\noat\tO\n", "# labels: not a label; found 3"),
    ('# labels = [{"role": "brand", "text": "oat", "start": 1, "end": 2}]\noat\tO\n', "it is not 'oat'"),
    ("# confidence = [[]]\noat\tO\n", "# confidence: not a confidence"),
])
def test_lines_that_are_no_such_file(tmp_path: Path, shop: Task, text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read(written(tmp_path, text), shop)


def test_a_token_that_would_be_the_mark_of_a_document(tmp_path: Path, shop: Task) -> None:
    examples = [
        Example("-DOCSTART-oat", (Label("brand", "oat", 10, 13),)),
        Example("-DOCSTART-", (Label("brand", "-DOCSTART-", 0, 10),)),
    ]
    write_conll(tmp_path / "out.conll", examples, shop)
    assert [x.example for x in read(tmp_path / "out.conll", shop)[0]] == examples


def test_a_plain_query_is_written_without_comments(tmp_path: Path, shop: Task) -> None:
    path = tmp_path / "out.conll"
    examples = [
        Example("oatly oat milk", (Label("brand", "oatly", 0, 5), Label("product type", "oat milk", 6, 14))),
        Example("milk,eggs", (Label("product type", "milk", 0, 4),), 3),
    ]
    assert write_conll(path, examples, shop) == []
    assert path.read_text(encoding="utf-8") == (
        "oatly\tB-brand\noat\tB-product type\nmilk\tI-product type\n\n"
        "# text = milk,eggs\n# count = 3\nmilk\tB-product type\n,\tO\neggs\tO\n\n"
    )
