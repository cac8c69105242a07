"""The bundle that a new one is compared with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from limbeck.judging.gate import _released
from serving.release.bundle import Bundle, build
from task.codec import Codec
from task.errors import InputWarning
from task.labels import Example
from task.spec import Task
from task.tokenizer import FastTokenizer


@pytest.fixture
def bundle(tmp_path: Path, task: Task, tiny_llama: Path, tokenizer: FastTokenizer) -> Bundle:
    return build(tmp_path / "bundle", task, Codec.compile(task, [], tokenizer), tiny_llama, [], {})


def test_a_pointer_that_is_not_there_is_told_because_two_rules_are_left_out_then(
    tmp_path: Path, bundle: Bundle
) -> None:
    """It is what a first release looks like, and a misspelt path as well."""
    with pytest.warns(InputWarning, match="--released: no bundle has been released there, so gates.released_m"):
        assert _released(tmp_path / "misspelt.json", bundle) is None


def test_a_bundle_is_compared_with_another_and_not_with_itself(tmp_path: Path, bundle: Bundle) -> None:
    other = build(tmp_path / "other", bundle.task, bundle.codec, bundle.model, [Example("milk")], {})
    found = _released(other.folder, bundle)
    assert found is not None
    assert found.id == other.id
    same = shutil.copytree(bundle.folder, tmp_path / "same")
    with pytest.warns(InputWarning, match=f"the released bundle is this one, {bundle.id}: gates.released_margin"):
        assert _released(same, bundle) is None
