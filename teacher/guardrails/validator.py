"""Turns a teacher's answer into a row of the ledger: labels, verdicts, and signals for the confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_client import reply
from task.files import sha256_json
from task.labels import Example, Label, span_problem
from task.readers import Item
from task.settings import Confidence
from task.spec import Task
from teacher.guardrails.confidence import apply
from teacher.guardrails.label_checks import Guardrails, checks_relevance
from teacher.ledger.records import LedgerRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherAnswer:
    """The labels of one query as a teacher returned them.

    Attributes:
        request: Key of the request that was answered.
        labels: Rows `{"role", "text", "start"?, "end"?, "confidence"?, "signals"?}`; None without a usable reply.
        signals: Of the labelling as a whole.
        reason: Why there are no labels.
    """

    query: str
    request: str
    labels: Sequence[Mapping[str, Any]] | None
    signals: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


class Validator:
    """Applies the guardrails to answers.

    Attributes:
        fingerprint: Changes with the rules; a row that has another one is out of date.
    """

    def __init__(self, guardrails: Guardrails, settings: Confidence, parser: int = 1) -> None:
        """Begin.

        Args:
            parser: Version of `llm_client.reply` where answers are read by it; its first is left out of the
                fingerprint, as before it had one.
        """
        self._guardrails = guardrails
        self._settings = settings
        rules = guardrails.fingerprint()
        self.fingerprint = rules if parser == 1 else sha256_json([rules, parser])

    def row(self, query: Example, answer: TeacherAnswer) -> LedgerRow:
        """The row of a query; its confidence is not calibrated yet."""
        if answer.labels is None:
            return LedgerRow(
                query.query, query.count, answer.request, "failed", (), 0.0, reason=answer.reason,
                rules=self.fingerprint,
            )
        given = [_label(query.query, r) for r in answer.labels]
        kept, verdicts = self._guardrails.check(query.query, given)
        signals = [{**answer.labels[k.index].get("signals", {}), "guardrails": k.margin} for k in kept]
        # A query with one rewrite less is still labelled rightly; one that lacks the label of a word is not.
        rejected = [v for v in verdicts if v.verdict == "rejected" and v.role not in self._guardrails.text_roles]
        whole = {**answer.signals, "kept": len(kept) / len(given) if given else 1.0}
        row = LedgerRow(
            query.query, query.count, answer.request, "partial" if rejected else "accepted",
            tuple(k.label for k in kept), 1.0, reason=rejected[0].reason if rejected else "",
            verdicts=[v.to_json() for v in verdicts if v.verdict != "accept"], label_signals=signals,
            row_signals=whole, rules=self.fingerprint,
        )
        return apply([row], None, self._settings)[0]


def make_validator(
    task: Task, catalogue: Sequence[Item], folder: Path, fetch: Callable[[str], Path], *, shared: bool = False
) -> Validator:
    """The validator of a task.

    Args:
        folder: Holds the embeddings, for roles with `guard.relevance` or `guard.relevance_max`.
        fetch: Returns the folder of a model by name.
        shared: Leave the embeddings on disk as they are: another process writes them.
    """
    relevance = None
    parser = 1 if task.teacher.openai.prompt is None else reply.VERSION  # only LLM teachers have a prompt
    if checks_relevance(task):
        from teacher.retrieval.embedding_store import EmbeddingStore

        store = EmbeddingStore(folder, model=fetch(task.teacher.retrieval.embedder), shared=shared)

        def relevance(query: str, value: str) -> float:
            a, b = store.vectors([query, value])
            return float(a @ b)

    return Validator(Guardrails(task, catalogue, relevance), task.teacher.confidence, parser)


def _label(query: str, row: Mapping[str, Any]) -> Label:
    """A label as the teacher gave it; a value of the wrong type becomes text, which the guardrails reject.

    Offsets that are not those of the text are left out: the guardrails look for the text.
    """
    text, start, end, confidence = str(row.get("text")), row.get("start"), row.get("end"), row.get("confidence")
    spanned = span_problem(query, text, start=start, end=end) is None
    return Label(
        str(row.get("role")), text, start if spanned else None, end if spanned else None,
        float(confidence) if isinstance(confidence, int | float) else None,
    )


def skipped(query: Example, reason: str) -> LedgerRow:
    """The row of a query that is not labelled."""
    return LedgerRow(query.query, query.count, "", "skipped", (), 0.0, reason=reason)
