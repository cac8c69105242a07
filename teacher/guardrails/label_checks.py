"""Guardrails: the checks that a teacher's label must pass before a student learns from it.

The task file declares the checks of each role. Every label gets one verdict with a reason. A repaired label is kept in
its repaired form; a rejected one is dropped and its row marked `partial`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rapidfuzz import fuzz, process

from task.files import sha256_json
from task.labels import Label, place
from task.normalize import normaliser
from task.readers import Item
from task.role import Role
from task.spec import Task
from teacher.guardrails import span_matching as spans
from teacher.guardrails.catalogue_values import Grounding
from teacher.guardrails.rewrites import Rewrites

# Increase this when a rule below changes: all stored replies are then validated again, which costs nothing.
VERSION = 2
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)\s*([^\d\s.,]+)")
Relevance = Callable[[str, str], float]  # cosine similarity of a query and a value


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome for one label; its reason reads `check: what was found`."""

    role: str
    text: str
    verdict: Literal["accept", "repaired", "rejected"]
    reason: str

    def to_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {"role": self.role, "text": self.text, "verdict": self.verdict, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class PassedLabel:
    """A label that passed, as it is after repairs.

    Attributes:
        index: Its index among the labels of the answer.
        margin: In [0, 1], how far it was from being rejected; 1 for an exact match.
    """

    label: Label
    index: int
    margin: float


def checks_relevance(task: Task) -> bool:
    """Whether a role of the task has bounds of the similarity of a value to the query."""
    return any((r.guard.relevance, r.guard.relevance_max) != (None, None) for r in task.roles)


class _RejectedError(Exception):
    """A label is rejected; the message is the reason."""


class Guardrails:
    """The checks of a task.

    Attributes:
        text_roles: Names of the roles whose values are rewrites.

    Args:
        catalogue: For roles that are grounded, and for `guard.keep`.
        relevance: For roles with `guard.relevance` or `guard.relevance_max`.
    """

    def __init__(self, task: Task, catalogue: Sequence[Item] = (), relevance: Relevance | None = None) -> None:
        if relevance is None and checks_relevance(task):
            raise ValueError("a role has guard.relevance or guard.relevance_max, and nothing measures it")
        self._task = task
        self.text_roles = frozenset(r.name for r in task.text_roles)
        self._normalise: Callable[[str], str] = normaliser(task.normaliser)
        self._roles = {r.name: r for r in task.roles}
        self._grounding = Grounding(task, catalogue, self._normalise)
        self._rewrites = Rewrites(task, catalogue, self._normalise)
        self._patterns = {r.name: re.compile(r.pattern, re.IGNORECASE) for r in task.roles if r.pattern}
        self._relevance = relevance
        self._normalised: dict[str, dict[str, str]] = {}
        self._ends: dict[str, dict[tuple[str, ...], str | None]] = {}

    def fingerprint(self) -> str:
        """Changes with the rules and the catalogue; rows with another fingerprint are validated again."""
        return sha256_json({
            "version": VERSION, "roles": [r.model_dump(mode="json") for r in self._task.roles],
            "normaliser": self._task.normaliser, "grounding": self._grounding.fingerprint(),
            "embedder": self._task.teacher.retrieval.embedder if checks_relevance(self._task) else None,
            **self._rewrites.fingerprint(),
        })

    def check(self, query: str, labels: Sequence[Label]) -> tuple[list[PassedLabel], list[Verdict]]:
        """The labels that pass, in the order of the query, and a verdict for every label of the answer."""
        verdicts: list[Verdict] = []
        kept: list[PassedLabel] = []
        taken: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for index, label in enumerate(labels):
            try:
                passed, verdict = self._one(query, index, label, frozenset(taken[label.role, label.text]))
            except _RejectedError as error:
                verdict = Verdict(role=label.role, text=label.text, verdict="rejected", reason=str(error))
            else:
                kept.append(passed)
                if passed.label.start is not None:
                    taken[label.role, label.text].add(passed.label.start)
            verdicts.append(verdict)
        for rule in (self._overlapping, self._excluded, self._incomplete):
            for loser, why in rule(kept).items():
                lost = next(k for k in kept if k.index == loser)
                kept.remove(lost)
                verdicts[loser] = Verdict(role=lost.label.role, text=lost.label.text, verdict="rejected", reason=why)
        return sorted(kept, key=lambda k: place(k.label)), verdicts

    # -- one label ------------------------------------------------------------------------------------------------

    def _one(self, query: str, index: int, label: Label, taken: frozenset[int]) -> tuple[PassedLabel, Verdict]:
        role = self._roles.get(label.role)
        if role is None:
            raise _RejectedError("schema: unknown role")
        given = label.text
        if role.kind == "text":
            label, margin, reasons = self._text(role, query, label)
        else:
            label, margin, reasons = (
                self._closed(role, label) if role.kind == "closed" else self._open(role, query, label, taken)
            )
        margin = min(margin, self._checked(role, query, label.text))
        verdict = Verdict(
            role=role.name, text=given, verdict="repaired" if reasons else "accept",
            reason="; ".join(reasons) or "as it stands",
        )
        return PassedLabel(label, index, margin), verdict

    def _closed(self, role: Role, label: Label) -> tuple[Label, float, list[str]]:
        """An allowed value, the only path with this end, or the nearest value if it is near enough (`guard.snap`)."""
        bare = Label(role.name, label.text, confidence=label.confidence)
        if label.text in role.allowed:
            return bare, 1.0, []
        if (node := self._node_that_ends_with(role, label.text)) is not None:
            return replace(bare, text=node), 1.0, ["closed set: the whole path"]
        near = process.extractOne(
            self._normalise(label.text), self._choices(role), scorer=fuzz.ratio, score_cutoff=role.guard.snap,
        )
        if near is None:
            raise _RejectedError("closed set: not an allowed value")
        return replace(bare, text=near[2]), near[1] / 100.0, ["closed set: snapped to the nearest allowed value"]

    def _text(self, role: Role, query: str, label: Label) -> tuple[Label, float, list[str]]:
        """A text with single blanks, if it may stand for the query."""
        text = " ".join(label.text.split())
        if (problem := self._rewrites.problem(role, query, text)) is not None:
            raise _RejectedError(problem)
        return Label(role.name, text, confidence=label.confidence), 1.0, [] if text == label.text else ["text: blanks"]

    def _choices(self, role: Role) -> Mapping[str, str]:
        """Value → its normalised form, made once; of a taxonomy also the nodes above its values."""
        if role.name not in self._normalised:
            above = sorted(role.allowed - set(role.values))
            self._normalised[role.name] = {v: self._normalise(v) for v in (*role.values, *above)}
        return self._normalised[role.name]

    def _node_that_ends_with(self, role: Role, text: str) -> str | None:
        """The only node of a taxonomy whose path ends with the parts of a text; None where several do, or none."""
        if role.separator is None:
            return None
        if role.name not in self._ends:
            ends: dict[tuple[str, ...], str | None] = {}
            for node in role.allowed:
                parts = self._parts(role, node)
                for at in range(len(parts)):
                    ends[parts[at:]] = None if parts[at:] in ends else node
            self._ends[role.name] = ends
        return self._ends[role.name].get(self._parts(role, text))

    def _parts(self, role: Role, path: str) -> tuple[str, ...]:
        return tuple(self._normalise(part) for part in path.split((role.separator or "").strip() or role.separator))

    def _open(
        self, role: Role, query: str, label: Label, taken: frozenset[int]
    ) -> tuple[Label, float, list[str]]:
        """The span of the value in the query."""
        whole = label.text.strip() == label.text != ""
        if whole and label.start is not None and query[label.start : label.end] == label.text:
            return label, 1.0, []
        found = spans.find(query, text=label.text, least=role.guard.repair / 100.0, taken=taken)
        if found is None:
            raise _RejectedError("span: not words of the query" if label.text.strip() else "span: empty")
        placed = Label(role.name, query[found.start : found.end], found.start, found.end, label.confidence)
        if found.kind == "verbatim":
            return placed, 1.0, [] if placed.text == label.text else ["span: blanks"]
        return placed, found.similarity, [f"span: {found.kind}"]

    def _checked(self, role: Role, query: str, text: str) -> float:
        """The minimum margin of the checks on a value.

        Raises:
            _RejectedError: A check fails.
        """
        guard, margin = role.guard, 1.0
        if guard.max_words and len(text.split()) > guard.max_words:
            raise _RejectedError("length: too many words")
        if guard.must_match and not self._patterns[role.name].fullmatch(text):
            raise _RejectedError("pattern: does not match")
        if guard.units:
            _check_units(guard.units, text)
        if role.grounded and role.kind == "open":
            known = self._grounding.match(role, self._normalise(text))
            if known is None:
                raise _RejectedError("grounding: the catalogue does not know it")
            margin = known.similarity
        least, most = guard.relevance, guard.relevance_max
        if self._relevance is not None and (least, most) != (None, None):
            similarity = self._relevance(query, text)
            if least is not None and similarity < least:
                raise _RejectedError("relevance: too far from the query")
            if most is not None and similarity > most:
                raise _RejectedError("relevance: too near to the query")
            if least is not None:
                margin = min(margin, (similarity - least) / max(1e-6, 1.0 - least))
        return margin

    # -- rules over all labels of a query; each returns index → reason ------------------------------------------------

    def _overlapping(self, kept: Sequence[PassedLabel]) -> dict[int, str]:
        """Of overlapping spans, and of more values than a role takes, the most confident labels are kept."""
        out: dict[int, str] = {}
        stay: list[Label] = []
        for k in sorted(kept, key=_priority):
            x = k.label
            overlap = x.start is not None and any(
                y.start is not None and y.start < (x.end or 0) and x.start < (y.end or 0) for y in stay
            )
            role = self._roles[x.role]
            if any(self._same(role, x, y) for y in stay):
                out[k.index] = "twice: the same label again"
            elif overlap:
                out[k.index] = "overlap: another label holds these words"
            elif not role.multiple and any(y.role == x.role for y in stay):
                out[k.index] = "one value: another is surer"
            elif role.kind == "text" and sum(y.role == x.role for y in stay) >= role.most_texts:
                out[k.index] = "number: more values than `most`"
            else:
                stay.append(x)
        return out

    def _same(self, role: Role, one: Label, other: Label) -> bool:
        """Whether two labels are the same; texts are if they are the same query."""
        if role.kind == "text" and one.role == other.role:
            return self._normalise(one.text) == self._normalise(other.text)
        return one.key == other.key

    def _excluded(self, kept: Sequence[PassedLabel]) -> dict[int, str]:
        """Of two roles that exclude each other, the one with the more confident label is kept."""
        out: dict[int, str] = {}
        stay: set[str] = set()
        for k in sorted(kept, key=_priority):
            name = k.label.role
            rivals = {*self._roles[name].excludes, *(r for r in stay if name in self._roles[r].excludes)}
            if rivals & stay:
                out[k.index] = f"excludes: the query has {sorted(rivals & stay)[0]}"
            else:
                stay.add(name)
        return out

    def _incomplete(self, kept: Sequence[PassedLabel]) -> dict[int, str]:
        """A label is dropped if its role requires another one that no label has."""
        have = {k.label.role for k in kept}
        return {
            k.index: "requires: the role it needs is absent" for k in kept
            if (need := self._roles[k.label.role].requires) and not have & set(need)
        }


def _priority(kept: PassedLabel) -> tuple[float, float, int, int]:
    """Sort key: highest confidence first, then the largest margin, the longer span, the earlier label."""
    x = kept.label
    length = 0 if x.start is None else (x.end or 0) - x.start
    return -(x.confidence if x.confidence is not None else 0.0), -kept.margin, -length, kept.index


def _check_units(units: Mapping[str, tuple[float, float]], text: str) -> None:
    """Checks that the text has a number with a known unit, within its bounds."""
    found = _NUMBER.search(text)
    if found is None:
        raise _RejectedError("units: no number with a unit")
    amount, unit = float(found[1].replace(",", ".")), found[2].casefold()
    if unit not in units:
        raise _RejectedError("units: unknown unit")
    low, high = units[unit]
    if not low <= amount <= high:
        raise _RejectedError("units: not a sane amount")


class VerdictCounts:
    """Counts of verdicts by role, verdict and reason, with a few examples of each."""

    def __init__(self, examples: int = 3) -> None:
        self._most = examples
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._texts: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)

    def add(self, labels: Iterable[Label], verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Add one row: its labels, and its verdicts other than `accept`."""
        repaired: Counter[str] = Counter()
        for v in verdicts:
            self._count((v["role"], v["verdict"], v["reason"]), v["text"])
            repaired[v["role"]] += v["verdict"] == "repaired"
        for x in labels:
            if repaired[x.role]:
                repaired[x.role] -= 1
            else:
                self._count((x.role, "accept", "as it stands"), x.text)

    def _count(self, key: tuple[str, str, str], text: str) -> None:
        self._counts[key] += 1
        texts = self._texts[key]
        if len(texts) < self._most and text not in texts:
            texts.append(text)

    def rows(self) -> list[dict[str, Any]]:
        """Most frequent first."""
        return [
            {"role": k[0], "verdict": k[1], "reason": k[2], "count": n, "examples": self._texts[k]}
            for k, n in self._counts.most_common()
        ]
