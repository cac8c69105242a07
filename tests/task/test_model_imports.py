"""What a student's packages do not import, and that they find it where it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from task.model_imports import import_peft


def run(code: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_student_is_made_without_packages_that_it_does_not_use_and_with_them_where_it_does(tiny_llama: Path) -> None:
    run("""
import sys
from pathlib import Path
import torch
from student.adapters import add_adapter
from student.model import load_base
from task.settings import Student

base = Path(sys.argv[1])
plain = add_adapter(load_base(base, torch.float32, Student()), Student())
assert not {"sklearn", "scipy", "bitsandbytes"} & sys.modules.keys(), sorted(sys.modules)

import scipy.optimize
import sklearn.metrics

settings = Student(quantization="nf4")
loaded = load_base(base, torch.bfloat16, settings)
from peft.tuners.lora.bnb import Linear4bit
quantised = add_adapter(loaded, settings)
assert sum(isinstance(m, Linear4bit) for m in quantised.modules()) == sum(
    hasattr(m, "lora_A") for m in plain.modules()
) > 0
""", tiny_llama)


def test_what_is_imported_already_stays() -> None:
    before = sys.modules.get("sklearn")
    import_peft()
    assert sys.modules.get("sklearn") is before
    assert "bitsandbytes" not in sys.modules or sys.modules["bitsandbytes"] is not None
