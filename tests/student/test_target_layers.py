"""The layers that an adapter names are layers of the base, or the error lists those that are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from student.estimate import architecture
from student.preflight import check
from student.target_layers import check_targets
from task.errors import InputError, InputWarning
from task.settings import Lora, Student
from tests.student.test_preflight import LORA


@pytest.mark.parametrize("changes", [
    {"lora": Lora(targets=("foo",))}, {"peft": LORA | {"target_modules": ["foo"]}},
])
def test_a_layer_that_the_base_does_not_have_is_refused_with_those_that_it_has(
    tiny_llama: Path, changes: dict[str, Any]
) -> None:
    field = "student.lora.targets" if "lora" in changes else "student.peft.target_modules"
    with pytest.raises(InputError) as caught:
        check(tiny_llama, Student(**changes))
    assert f"{field}: the base has no layer of this name: 'foo'; found ['foo']" in str(caught.value)
    layers = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert f"expected all-linear, attention, mlp, or names of layers: {layers}" in str(caught.value)


def test_a_misspelt_layer_beside_others_is_told(tiny_llama: Path) -> None:
    with pytest.warns(InputWarning, match=r"no layer of this name: 'v_prj'.*Did you mean `v_proj`\?"):
        check(tiny_llama, Student(lora=Lora(targets=("q_proj", "v_prj"))))


def test_paths_of_layers_are_targets(tiny_llama: Path, recwarn: pytest.WarningsRecorder) -> None:
    for targets in (("self_attn.q_proj",), ("model.layers.0.mlp.up_proj", "layers.1.self_attn.v_proj")):
        check(tiny_llama, Student(lora=Lora(targets=targets)))
        shape = architecture(str(tiny_llama))
        assert shape is not None
        check_targets(Student(lora=Lora(targets=targets)), shape.paths, linear=shape.paths, base=tiny_llama)
    assert [str(w.message) for w in recwarn if "no layer" in str(w.message)] == []
