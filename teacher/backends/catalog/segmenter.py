"""The segmentation of a query that the evidence supports best.

Every run of words gets, for every role, the probability that it names a value of that role: its similarity to the
value (exact, alias, pattern, stem, edit similarity) times the support of the value by purchases. Dynamic programming
then finds the non-overlapping runs that maximise the sum of characters × (probability − threshold). Closed roles follow
from the runs and the purchases; taxonomies and other large sets have a module of their own (`categories.py`).
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rapidfuzz import process
from rapidfuzz.distance import OSA

from task.labels import Label, Labelling, place
from task.normalize import normaliser
from task.role import Role
from task.spec import Task
from teacher.backends.catalog.categories import categories, category_roles
from teacher.backends.catalog.lexicon import MAX_WORDS, Lexicon, unit_spans
from teacher.retrieval.evidence import Evidence

_PURCHASE_CAP = 12.0
_CLEAN_PURCHASES = 0.87  # share of purchases that agree with the label even when it is right
_EVIDENCE_VALUES = 16
_PRIOR_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class Segmented:
    """Labels of a query, the signals of each, and the normalised runs of words without a label.

    Attributes:
        undecided: Of each category role without a value, the probability of the best one: too low for a label.
    """

    labels: Labelling
    residue: tuple[str, ...]
    signals: tuple[Mapping[str, float], ...] = ()
    undecided: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    role: str
    value: str
    first: int
    end: int
    probability: float
    signals: Mapping[str, float]


class Segmenter:
    """Labels queries from a lexicon and their evidence."""

    def __init__(self, task: Task, lexicon: Lexicon) -> None:
        self._task = task
        self._lexicon = lexicon
        self._normalise: Callable[[str], str] = normaliser(task.normaliser)
        self._threshold = task.teacher.min_confidence
        self._patterns = {r.name: re.compile(r.pattern, re.IGNORECASE) for r in task.open_roles if r.pattern}
        self._categories = category_roles(task)
        self._closed_by_words = [r for r in task.closed_roles if r not in self._categories]

    def label(self, query: str, evidence: Evidence) -> Segmented:
        """The best segmentation of one query."""
        spans = unit_spans(query)[:64]
        support = _Support(self._lexicon, evidence)
        candidates = self._candidates(query, spans, support)
        chosen = self._best(len(spans), candidates, spans)
        labels = [
            (Label(c.role, query[spans[c.first][0] : spans[c.end - 1][1]], spans[c.first][0], spans[c.end - 1][1],
                   c.probability), {**c.signals, "margin": self._margin(c, candidates)})
            for c in chosen
        ]
        covered = {u for c in chosen for u in range(c.first, c.end)}
        runs: list[list[str]] = []
        run: list[str] = []
        for u, (s, e) in enumerate(spans):
            if u in covered:
                runs.append(run)
                run = []
            else:
                run.append(self._normalise(query[s:e]))
        residue = tuple(" ".join(r) for r in [*runs, run] if r)
        of_query, undecided = self._of_query(chosen, evidence)
        both = sorted([*labels, *self._closed(chosen, support), *of_query], key=lambda x: place(x[0]))
        return Segmented(tuple(x for x, _ in both), residue, tuple(s for _, s in both), undecided)

    def _margin(self, chosen: _Candidate, candidates: Mapping[tuple[int, int], _Candidate]) -> float:
        """The margin over the best other label of any of its words, scaled to [0, 1]."""
        rivals = [
            c.probability for (first, end), c in candidates.items()
            if first < chosen.end and chosen.first < end and (first, end) != (chosen.first, chosen.end)
            and (c.role, c.value) != (chosen.role, chosen.value)
        ]
        return max(0.0, min(1.0, 0.5 + (chosen.probability - max(rivals, default=0.0)) / 2))

    def _candidates(
        self, query: str, spans: Sequence[tuple[int, int]], support: _Support
    ) -> dict[tuple[int, int], _Candidate]:
        """The most probable role and value of every run of words that has one above the threshold."""
        texts = {}
        for first in range(len(spans)):
            for end in range(first + 1, min(len(spans), first + MAX_WORDS) + 1):
                texts[first, end] = self._normalise(query[spans[first][0] : spans[end - 1][1]])
        best: dict[tuple[int, int], _Candidate] = {}
        keys = list(texts)
        stems = [_stem(t) for t in texts.values()]
        for role in self._task.open_roles:
            similar = self._similar(list(texts.values()), stems, support.values(role.name))
            for key, near in zip(keys, similar, strict=True):
                value, likeness = self._likeness(role, texts[key], near)
                if likeness <= 0:
                    continue
                probability = likeness * support.probability(
                    role.name, value=value, text=texts[key], likeness=likeness
                )
                if probability > self._threshold and probability > getattr(best.get(key), "probability", 0.0):
                    signals = {
                        "probability": probability, "likeness": likeness,
                        **support.signals(role.name, value=value, text=texts[key]),
                    }
                    best[key] = _Candidate(role.name, value, *key, probability, signals)
        return best

    def _likeness(self, role: Role, text: str, near: tuple[str, float]) -> tuple[str, float]:
        """The value of a role that a text may name, and their similarity."""
        if text in self._lexicon.values[role.name]:
            return text, 1.0
        pattern = self._patterns.get(role.name)
        if pattern and pattern.fullmatch(text):
            return text, 0.99
        if text in self._lexicon.aliases[role.name]:
            return self._lexicon.aliases[role.name][text], 0.97
        return near

    def _similar(
        self, texts: Sequence[str], stems: Sequence[str], values: Sequence[str]
    ) -> list[tuple[str, float]]:
        """For each text its most similar value, by restricted edit distance, ignoring blanks and plurals."""
        if not values:
            return [("", 0.0)] * len(texts)
        table = process.cdist(stems, [_stem(v) for v in values], scorer=OSA.normalized_similarity)
        least = self._task.teacher.fuzzy / 100.0
        out = []
        for text, stem, row in zip(texts, stems, table, strict=True):
            at = int(row.argmax())
            similarity = float(row[at])
            if len(stem) < 4 and similarity < 1.0:
                out.append(("", 0.0))
            elif similarity >= least:
                out.append((values[at], 0.80 + 0.18 * (similarity - least) / max(1e-9, 1.0 - least)))
            else:
                out.append(self._part_of(text, values))
        return out

    def _part_of(self, text: str, values: Sequence[str]) -> tuple[str, float]:
        """The value of a single word that is part of exactly one supported multi-word value: `verdant`."""
        if " " in text or len(text) < 4:
            return "", 0.0
        held = [v for v in values if " " in v and text in v.split(" ")]
        return (held[0], 0.75) if len(held) == 1 else ("", 0.0)

    def _best(
        self, length: int, candidates: Mapping[tuple[int, int], _Candidate], spans: Sequence[tuple[int, int]]
    ) -> list[_Candidate]:
        """Semi-Markov Viterbi over word borders."""
        score = [0.0] * (length + 1)
        back: list[_Candidate | None] = [None] * (length + 1)
        for end in range(1, length + 1):
            score[end], back[end] = score[end - 1], None
            for first in range(max(0, end - MAX_WORDS), end):
                c = candidates.get((first, end))
                if c:
                    characters = spans[end - 1][1] - spans[first][0]
                    gain = score[first] + characters * (c.probability - self._threshold)
                    if gain > score[end]:
                        score[end], back[end] = gain, c
        out: list[_Candidate] = []
        at = length
        while at:
            c = back[at]
            if c:
                out.append(c)
            at = c.first if c else at - 1
        out = _merged(out[::-1])
        single = {r.name for r in self._task.open_roles if not r.multiple}
        best = {n: max((c for c in out if c.role == n), key=lambda c: c.probability, default=None) for n in single}
        return [c for c in out if c.role not in single or c is best[c.role]]

    def _closed(
        self, chosen: Sequence[_Candidate], support: _Support
    ) -> list[tuple[Label, Mapping[str, float]]]:
        """Closed roles: the values shared by the items with the chosen values and by the items bought."""
        out: list[tuple[Label, Mapping[str, float]]] = []
        if not chosen:
            return out
        for role in self._closed_by_words:
            if not _has_required(role, chosen):
                continue
            votes, weight = self._named(role, chosen)
            for value, purchases in support.closed(role.name).items():
                votes[value] += purchases
                weight += purchases
            for value, vote in sorted(votes.items(), key=lambda x: (-x[1], x[0])):
                probability = min(0.99, vote / weight / (_CLEAN_PURCHASES if weight > 4 else 1.0))
                if value in role.allowed and probability > self._threshold:
                    signals = {"probability": probability, "weight": weight / (weight + _PRIOR_WEIGHT),
                               "weakest": min(c.probability for c in chosen)}
                    out.append((Label(role.name, value, confidence=probability), signals))
                if not role.multiple:
                    break
        return out

    def _named(self, role: Role, chosen: Sequence[_Candidate]) -> tuple[Counter[str], float]:
        """The values of a closed role that the items with the chosen open values have: votes, and their sum."""
        votes: Counter[str] = Counter()
        weight = 0.0
        for c in chosen:
            counter = self._lexicon.closed_given.get((role.name, c.role, c.value))
            if counter:
                total = sum(counter.values())
                trust = c.probability * max(counter.values()) / total
                votes.update({v: 4.0 * trust * n / total for v, n in counter.items()})
                weight += 4.0 * trust
        return votes, weight

    def _of_query(
        self, chosen: Sequence[_Candidate], evidence: Evidence
    ) -> tuple[list[tuple[Label, Mapping[str, float]]], tuple[float, ...]]:
        """The categories of the whole query, and `Segmented.undecided`."""
        out: list[tuple[Label, Mapping[str, float]]] = []
        undecided = []
        for role in self._categories:
            if not _has_required(role, chosen):
                continue
            named, _ = self._named(role, chosen)
            found, best = categories(role, evidence, self._lexicon.rows, named, self._threshold)
            out += [(Label(role.name, x.value, confidence=x.probability), x.signals) for x in found]
            if not found:
                undecided.append(best)
        return out, tuple(undecided)


def _has_required(role: Role, chosen: Sequence[_Candidate]) -> bool:
    return not role.requires or bool({c.role for c in chosen} & set(role.requires))


def _merged(chosen: Sequence[_Candidate]) -> list[_Candidate]:
    """Joins adjacent spans that name the same value: `cheddar` + `cheese`."""
    out: list[_Candidate] = []
    for c in chosen:
        last = out[-1] if out else None
        if last and last.end == c.first and (last.role, last.value) == (c.role, c.value):
            better = max(last, c, key=lambda x: x.probability)
            out[-1] = _Candidate(c.role, c.value, last.first, c.end, better.probability, better.signals)
        else:
            out.append(c)
    return out


class _Support:
    """The purchases that support each value, for one query."""

    def __init__(self, lexicon: Lexicon, evidence: Evidence) -> None:
        self._lexicon = lexicon
        own = sum(evidence.conversions.values())
        scale = min(1.0, _PURCHASE_CAP / own) if own else 0.0
        near = sum(evidence.neighbour_conversions.values())
        near_scale = (1.0 if own else 2.0) / near if near else 0.0
        self.total = own * scale + near * near_scale
        self._weights: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row, count in evidence.conversions.items():
            self._add(row, count * scale)
        for row, weight in evidence.neighbour_conversions.items():
            self._add(row, weight * near_scale)
        for hit in evidence.items:
            for name, value in lexicon.rows[hit.row].items():
                self._seen[name][value] += hit.score  # type: ignore[assignment]

    def _add(self, row: int, weight: float) -> None:
        for name, value in self._lexicon.rows[row].items():
            self._weights[name][value] += weight  # type: ignore[assignment]
            self._seen[name][value] += weight  # type: ignore[assignment]

    def values(self, role: str) -> list[str]:
        """The values of a role in the evidence, best supported first."""
        return sorted(self._seen[role], key=lambda v: (-self._seen[role][v], v))[:_EVIDENCE_VALUES]

    def probability(self, role: str, *, value: str, text: str, likeness: float) -> float:
        """Posterior probability that the value is meant: the trust in the text, updated by the query's purchases."""
        trust = self._lexicon.trust.get((role, text), 0.6 if likeness < 0.98 else 0.7)
        prior = 5.0 if likeness > 0.95 else 2.0
        if value not in self._lexicon.values[role]:  # matched by a pattern, which needs no purchases
            return 0.95
        clean = min(1.0, trust / _CLEAN_PURCHASES)
        right = min(self.total, self._weights[role][value] / _CLEAN_PURCHASES)
        return (right + prior * clean) / (self.total + prior)

    def signals(self, role: str, *, value: str, text: str) -> dict[str, float]:
        """The signals of a label, each in [0, 1]."""
        held = self._weights[role][value]
        return {
            "purchases": held / (held + _PRIOR_WEIGHT),
            "share": (held + 0.5) / (self.total + 1.0),
            "trust": self._lexicon.trust.get((role, text), 0.5),
            "seen": 1.0 if self._seen[role][value] > 0 else 0.0,
            "length": min(1.0, len(text) / 20),
        }

    def closed(self, role: str) -> Counter[str]:
        """Purchases by value of a closed role."""
        return self._weights[role]


@functools.lru_cache(maxsize=200_000)
def _stem(text: str) -> str:
    """A text without blanks and plural endings; for comparison only."""
    words = []
    for word in text.split(" "):
        if len(word) > 3 and word.endswith("ies"):
            word = word[:-3] + "y"
        elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
            word = word[:-1]
        words.append(word)
    return "".join(words)
