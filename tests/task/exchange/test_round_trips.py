"""What is written in a tool's format is read back as it was, or is in the list of losses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from task.exchange.annotated import Annotated, Loss
from task.exchange.conll import read_conll
from task.exchange.conll_write import write_conll
from task.exchange.doccano import LAYOUTS, Layout, read_doccano, write_doccano
from task.exchange.label_studio import read_label_studio
from task.exchange.label_studio_write import write_label_studio
from task.exchange.offsets import UNITS, Offsets, Unit
from task.labels import Example, Label
from tests.strategies import TYPED, annotated_examples
from tests.task.exchange.conftest import shop_task

TASK = shop_task()
EXAMPLES = st.lists(annotated_examples(TASK), max_size=4)
EASY = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


def there_and_back(
    examples: Sequence[Example], write: Callable[[Path], list[Loss]],
    read: Callable[[Path, list[Loss]], Iterable[Annotated]],
) -> tuple[list[Example], list[Loss]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        losses = write(path)
        found = list(read(path, losses))
        assert len(found) == len(examples)
        return [x.example for x in found], losses


@EASY
@given(EXAMPLES)
def test_conll_carries_everything(examples: list[Example]) -> None:
    found, losses = there_and_back(
        examples, lambda path: write_conll(path, examples, TASK), lambda path, out: read_conll(path, TASK, out)
    )
    assert (found, losses) == (examples, [])


@EASY
@given(EXAMPLES, st.booleans())
def test_label_studio_carries_everything(examples: list[Example], machine: bool) -> None:
    found, losses = there_and_back(
        examples, lambda path: write_label_studio(path, examples, TASK, predictions=machine),
        lambda path, out: read_label_studio(path, TASK, out, predictions=True),
    )
    assert (found, losses) == (examples, [])


@EASY
@given(EXAMPLES, st.sampled_from(LAYOUTS), st.sampled_from(UNITS))
def test_doccano_carries_what_it_does_not_list(examples: list[Example], layout: Layout, unit: Unit) -> None:
    found, losses = there_and_back(
        examples, lambda path: write_doccano(path, examples, TASK, layout=layout, offsets=unit),
        lambda path, out: read_doccano(path, TASK, out, offsets=unit),
    )
    kept = [replace(x, labels=tuple(y for y in x.labels if carried(x.query, y, layout, unit))) for x in examples]
    assert found == kept
    assert {x.reason for x in losses} <= {"closed role", "span"}
    assert len(losses) == sum(len(x.labels) - len(y.labels) for x, y in zip(examples, kept, strict=True))


def carried(query: str, label: Label, layout: Layout, unit: Unit) -> bool:
    """Whether a project of a type has a place for a label."""
    if label.start is None or label.end is None:
        return layout != "sequence" or TASK.role(label.role).kind == "text"
    offsets = Offsets(query, unit)
    return layout != "classes" and None not in (offsets.of_point(label.start), offsets.of_point(label.end))


@given(TYPED, st.sampled_from(UNITS))
def test_borders_of_units_are_found_both_ways(text: str, unit: Unit) -> None:
    offsets = Offsets(text, unit)
    borders = [at for at in range(len(text) + 1) if offsets.of_point(at) is not None]
    assert borders[0] == 0
    assert borders[-1] == len(text)
    assert [offsets.to_points(offsets.of_point(at) or 0) for at in borders] == borders
    assert offsets.to_points(-1) is None
    assert offsets.to_points((offsets.of_point(len(text)) or 0) + 1) is None
    if unit == "utf16":
        assert offsets.of_point(len(text)) == len(text.encode("utf-16-le")) // 2


@pytest.mark.parametrize(("text", "clusters"), [
    ("👨🏻‍🚒 firemen", 9), ("👶🏻👦🏻", 2), ("e\u0301a", 2), ("🇩🇪🇫🇷", 2), ("각", 1), ("क्ष", 2), ("a\r\nb", 3),
    ("กำ", 1),
])
def test_grapheme_clusters_are_those_that_doccano_counts(text: str, clusters: int) -> None:
    """The first two are of the tests of doccano's own annotator and of the report of its users (issue 2290)."""
    assert Offsets(text, "graphemes").of_point(len(text)) == clusters
