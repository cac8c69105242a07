"""Checks of the student: base, tokenizer, adapter, symbols, and what the retrieval embeds with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from limbeck.checks.finding import Finding, Subject, bad, note, ok, told, tried
from student.estimate import architecture
from student.target_layers import check_targets
from student.training.order import how_to_train_longer
from task.errors import InputError
from task.model_store import KNOWN, stored

_LATER = "not on this machine: fetched by the run, and checked then"


def base(s: Subject) -> Iterator[Finding]:
    """The base can be trained, merged and served, and its tokenizer has symbols for the task."""
    name = s.task.student.base
    folder = stored(name)
    if folder is None:
        known = name in KNOWN or ("/" in name and not name.startswith((".", "/")))
        yield note("student.base", f"{name} is {_LATER}") if known else bad(
            "student.base", f"{name!r} is no such model",
            f"Name a folder, a hub repository or one of: {', '.join(n for n in KNOWN if architecture(n) is not None)}",
        )
        return
    if s.thorough:
        yield tried("student.base", lambda: _trainable(s, folder))
    else:
        yield from _targets(s)
    yield tried("student: symbols", lambda: _symbols(s, folder))


def _trainable(s: Subject, folder: Path) -> str:
    from student import preflight
    from student.training import reporters

    reporters.check(s.task.student.report_to)
    preflight.check(folder, s.task.student)
    return f"{s.task.student.base}: configuration, weights, tokenizer and adapter fit"


def _targets(s: Subject) -> Iterator[Finding]:
    """Layers that are named and that a base of known shapes does not have; without torch."""
    settings = s.task.student
    shape = architecture(settings.base)
    if shape is None or settings.peft is not None or settings.init_adapter is not None:
        return
    with told() as said:
        try:
            check_targets(settings, shape.paths, linear=shape.paths, base=settings.base)
        except InputError as error:
            yield bad("student.base", str(error))
    for text in said:
        yield note("student.base", text)


def _symbols(s: Subject, folder: Path) -> str:
    from task.codec import Codec
    from task.tokenizer import load_tokenizer

    codec = Codec.compile(s.task, s.rows("test"), load_tokenizer(folder))
    return f"{len(codec.symbol_ids)} for {len(s.task.roles)} roles, of the tokenizer's single tokens"


def warm_up(s: Subject) -> Iterator[Finding]:
    """The training is longer than the warm-up of its learning rate."""
    warmup = s.task.student.warmup_steps
    if s.training is not None and s.readable and s.training.steps <= warmup:
        yield note(
            "student.warmup_steps", f"about {s.training.steps} steps are planned, all within the warm-up of {warmup}",
            how_to_train_longer(s.training.rows, s.task.student),
        )


def embedder(s: Subject) -> Iterator[Finding]:
    """The model that retrieval embeds with, where the teacher retrieves."""
    from teacher.backends.backend import backend_of

    if s.labelled or not backend_of(s.task).context_kinds(s.task):
        return
    name = s.task.teacher.retrieval.embedder
    here = stored(name) is not None
    yield ok("teacher.retrieval.embedder", f"{name} is here") if here else note(
        "teacher.retrieval.embedder", f"{name} is {_LATER}"
    )
