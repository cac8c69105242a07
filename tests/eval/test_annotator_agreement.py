"""What people agree on, where there is more than one of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.annotator_agreement import ceiling
from eval.score import score_files
from tests.conftest import make_task
from tests.eval.test_matching import random_rows


def test_people_are_compared_two_by_two_and_with_gold() -> None:
    gold, other = random_rows(7, 200)
    found = ceiling(gold, [gold, gold, other], make_task(eval={"resamples": 50}))
    assert [p["value"] == 1.0 for p in found["between"]] == [True, False, False]
    assert [p["value"] == 1.0 for p in found["gold"]] == [True, True, False]
    assert found["mean_between"] == pytest.approx(np.mean([p["value"] for p in found["between"]]), abs=1e-6)


def test_only_queries_that_all_have_labelled_count() -> None:
    gold, other = random_rows(7, 200)
    found = ceiling(gold, [gold[:50], other[20:]], make_task(eval={"resamples": 50}))
    assert found["rows"] == 30
    nobody = ceiling(gold, [gold[:10], gold[10:20]], make_task(eval={"resamples": 50}))
    assert (nobody["rows"], nobody["mean_between"]) == (0, None)


def test_a_score_says_what_people_reach(tmp_path: Path) -> None:
    gold, other = random_rows(1, 100)
    for name, rows in (("gold", gold), ("one", other), ("two", gold)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x.to_json()) + "\n" for x in rows))
    files = [tmp_path / f"{n}.jsonl" for n in ("gold", "one", "two")]
    found = score_files(files[0], files[0], resamples=50, annotations=files[1:])
    assert found["people"]["gold"][1]["value"] == 1.0
    assert found["people"]["between"][0]["value"] < 1.0
    assert score_files(files[0], files[1], resamples=50)["people"] is None
