"""Guardrails: what a teacher's label must satisfy before anybody learns from it.

Each check gives a verdict with a reason; a rejected label is left out and its row marked `partial`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rapidfuzz import fuzz, process

from task.io import Item, locate_open
from task.labels import Label, Labelling, ordered
from task.normalize import normaliser
from task.spec import Task


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one label and why."""

    role: str
    text: str
    verdict: Literal["accept", "repaired", "rejected"]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {"role": self.role, "text": self.text, "verdict": self.verdict, "reason": self.reason}


class Guardrails:
    """Schema, verbatim span, and grounding in the catalogue."""

    def __init__(self, task: Task, catalogue: Iterable[Item] = ()) -> None:
        self._task = task
        self._normalise: Callable[[str], str] = normaliser(task.normaliser)
        self._grounded: defaultdict[str, set[str]] = defaultdict(set)
        self._words: defaultdict[str, set[str]] = defaultdict(set)
        self._known: dict[tuple[str, str], bool] = {}
        for item in catalogue:
            for role in task.roles:
                if role.grounded and role.catalogue:
                    for value in item.values(role.catalogue):
                        name = self._normalise(value)
                        self._grounded[role.name].add(name)
                        self._words[role.name].update(w for w in name.split() if len(w) > 3)

    def judge(self, query: str, labels: Sequence[Label]) -> tuple[Labelling, list[Verdict]]:
        """The labels that pass, in order, and a verdict for each that was given."""
        verdicts: list[Verdict] = []
        kept: list[Label] = []
        for label in labels:
            passed, verdict = self._one(query, label)
            verdicts.append(verdict)
            if passed:
                kept.append(passed)
        try:
            kept = list(locate_open(self._task, query, kept))
        except ValueError as error:
            verdicts.append(Verdict("", "", "rejected", f"not verbatim: {error}"))
            return (), verdicts
        return self._with_required(self._without_overlap(kept, verdicts), verdicts), verdicts

    def _one(self, query: str, label: Label) -> tuple[Label | None, Verdict]:
        role, text = label.role, label.text
        names = {r.name for r in self._task.roles}
        if role not in names:
            return None, Verdict(role, text, "rejected", "schema: unknown role")
        spec = self._task.role(role)
        if spec.kind == "closed":
            if text in spec.values:
                return label, Verdict(role, text, "accept", "in the closed set")
            return None, Verdict(role, text, "rejected", "closed set: not an allowed value")
        repaired = False
        if text not in query:
            at = self._normalise(query).find(self._normalise(text)) if text.strip() else -1
            same_length = len(self._normalise(query)) == len(query)
            if at < 0 or not same_length:
                return None, Verdict(role, text, "rejected", "span: not words of the query")
            text = query[at : at + len(self._normalise(text))]
            label, repaired = Label(role, text, confidence=label.confidence), True
        if not text.strip() or text != text.strip():
            return None, Verdict(role, text, "rejected", "span: empty or padded")
        if spec.grounded and not self._is_known(role, self._normalise(text)):
            return None, Verdict(role, text, "rejected", "grounding: the catalogue does not know it")
        return label, Verdict(role, text, "repaired" if repaired else "accept", "case" if repaired else "verbatim")

    def _is_known(self, role: str, text: str) -> bool:
        key = (role, text)
        if key not in self._known:
            words = self._words[role]
            self._known[key] = (
                text in self._grounded[role]
                or text in words
                or process.extractOne(text, self._grounded[role], scorer=fuzz.ratio, score_cutoff=80) is not None
                or process.extractOne(text, words, scorer=fuzz.ratio, score_cutoff=80) is not None
            )
        return self._known[key]

    def _with_required(self, labels: Labelling, verdicts: list[Verdict]) -> Labelling:
        """A role that requires another does not stand without it."""
        have = {x.role for x in labels}
        lonely = [x for x in labels if (need := self._task.role(x.role).requires) and not have & set(need)]
        verdicts += [Verdict(x.role, x.text, "rejected", "requires: the role it needs is absent") for x in lonely]
        return tuple(x for x in labels if x not in lonely)

    def _without_overlap(self, labels: Sequence[Label], verdicts: list[Verdict]) -> Labelling:
        """Where two spans overlap the more confident stays; a single-valued role keeps its best value."""
        kept: list[Label] = []
        single = {r.name for r in self._task.roles if not r.multiple}
        for label in sorted(labels, key=lambda x: (-(x.confidence or 0.0), x.start or 0)):
            overlap = label.start is not None and any(
                k.start is not None and k.start < (label.end or 0) and label.start < (k.end or 0) for k in kept
            )
            twice = label.role in single and any(k.role == label.role for k in kept)
            if overlap or twice or any(k.key == label.key for k in kept):
                reason = "overlap: another label holds these words" if overlap else "one value: another is surer"
                verdicts.append(Verdict(label.role, label.text, "rejected", reason))
            else:
                kept.append(label)
        return ordered(kept)


def summary(verdicts: Iterable[Verdict], examples: int = 3) -> list[dict[str, Any]]:
    """Verdicts counted by role, verdict and reason, most frequent first, with examples."""
    counts: Counter[tuple[str, str, str]] = Counter()
    texts: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for v in verdicts:
        key = (v.role, v.verdict, v.reason)
        counts[key] += 1
        if len(texts[key]) < examples:
            texts[key].append(v.text)
    return [
        {"role": k[0], "verdict": k[1], "reason": k[2], "count": n, "examples": texts[k]}
        for k, n in counts.most_common()
    ]
