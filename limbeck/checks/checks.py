"""The list of checks, how it is run, and how its findings are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from limbeck.checks import data, gold, machine, student, teacher
from limbeck.checks.finding import MARKS, Finding, Subject
from limbeck.pipeline import standing, states
from limbeck.run import Run
from task.errors import InputError

CHECKS: Final[tuple[Callable[[Subject], Iterator[Finding]], ...]] = (
    data.tables, data.roles, data.spellings, gold.calibration, gold.test, gold.gates, teacher.teacher, student.embedder,
    student.base, student.warm_up, machine.packages, machine.folder, machine.memory,
    machine.precision, machine.keys,
)


def check(run: Run, *, thorough: bool = True, call: bool = False) -> list[Finding]:
    """Look at everything that can be known before money or time is spent; nothing is written.

    Args:
        thorough: Also read datasets of the hub, and create the base without weights, which imports torch.
        call: Also ask the LLM's endpoint for its list of models, which costs nothing.
    """
    found = states(run) if run.files.label.folder.exists() else []
    labelled = any(s.name == "label" and s.state == "unchanged" for s in found)
    subject = Subject(run, thorough=thorough, call=call, labelled=labelled, curriculum_rows=standing(run, found).rows)
    return [finding for one in CHECKS for finding in one(subject)]


def check_before_run(run: Run) -> None:
    """What `limbeck run` does first. What is worth knowing is told as warnings are.

    The base is looked at closely unless it has been trained already.

    Raises:
        InputError: Something keeps the task from running; all that does is named.
    """
    from task.errors import warn

    findings = check(run, thorough=not (run.files.train.folder / "manifest.json").exists())
    for finding in findings:
        if finding.state == "note":
            warn(finding.text)
    raise_if_bad(findings)


def raise_if_bad(findings: Sequence[Finding]) -> None:
    """Raise an `InputError` that names everything that keeps the task from running, if anything does."""
    wrong = [f for f in findings if f.state == "bad"]
    if wrong:
        lines = "\n".join(f"  {MARKS[f.state]} {f.text}" for f in wrong)
        raise InputError(f"{len(wrong)} of {len(findings)} checks failed, nothing was spent:\n{lines}")


def render(findings: Iterable[Finding]) -> str:
    """A line for each finding, and one for what to do about it."""
    return "\n".join(
        f"{MARKS[f.state]} {f.name}: {f.found}{f'{chr(10)}    → {f.fix}' if f.fix else ''}" for f in findings
    )


def to_json(run: Run, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for other programs."""
    return {
        "task": run.task.name, "ok": all(f.state != "bad" for f in findings),
        "checks": [{"name": f.name, "state": f.state, "found": f.found, "fix": f.fix} for f in findings],
    }
