"""The context of a query (`llm_client.context`): retrieved, and cut to a budget of tokens, the most useful kept."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llm_client.context import EMPTY, KINDS, Context
from task.labels import Example
from task.near_duplicates import near_words, words_of
from task.normalize import normaliser, remembering
from task.readers import Item
from task.role import Role
from task.spec import Task
from teacher.retrieval.embedder import Vectors
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.evidence import Evidence, EvidenceFinder
from teacher.retrieval.index import Index
from teacher.retrieval.nearest_neighbours import exact
from teacher.retrieval.spellings import Spellings, most_spellings, once, spellings

# Increase this when the same evidence gives another prompt: LLM teachers are then asked again.
VERSION = 2
# Value of the first entry of each kind; the n-th entry has 1/n of it.
_VALUE = {"examples": 1.0, "bought": 1.0, "converted": 0.9, "similar": 0.6, "items": 0.7, "neighbours": 0.3}
SHOWN = {"bought": 5, "converted": 5, "similar": 5, "items": 8, "neighbours": 5}
_CANDIDATES = 10  # of a shortlisted role, in each of `converted` and `similar`: the LLM can answer nothing else
_FIRST_BLOCK, _BLOCK = 64, 512  # a small first block, so that the first calls start early


class ContextFinder:
    """Contexts for queries, in blocks.

    Args:
        held_out: Gold queries that are never shown, because they are near-duplicates of a test query.
        index: None if there is neither a catalogue nor a gold row to search.
    """

    def __init__(
        self, task: Task, gold: Sequence[Example], held_out: frozenset[str], index: Index | None,
        store: EmbeddingStore | None,
    ) -> None:
        self._task = task
        self._catalogue: Sequence[Item] = () if index is None else index.items
        self._normalise = normaliser(task.normaliser)
        self._few_shot = task.teacher.openai.few_shot if "examples" in task.teacher.openai.context else 0
        self._spellings = spellings_of(task, self._catalogue)
        self._finder: EvidenceFinder | None = None
        self._gold: list[tuple[list[str], Example]] = []
        if index is None or store is None:
            return
        self._finder = EvidenceFinder(task.teacher.retrieval, index, store)
        if self._few_shot:
            shown = [e for e in gold if e.query not in held_out]
            self._gold = [(words_of(e.query, self._normalise), e) for e in shown]
            self._gold_vectors = store.vectors([e.query for e in shown], "gold queries")
        self._values = similar_values(task, index.items)
        self._shown = {name: shown_values(task.role(name), "similar") for name in self._values}
        self._looked_at = {n: k * most_spellings(self._spellings.get(n, {})) for n, k in self._shown.items()}
        self._value_vectors = {name: store.vectors(v, f"values of {name}") for name, v in self._values.items()}

    def find(self, queries: Sequence[Example]) -> Iterator[list[Context]]:
        """The contexts of all queries in order, block by block."""
        at, size = 0, _FIRST_BLOCK
        while at < len(queries):
            block = queries[at : at + size]
            at, size = at + size, _BLOCK
            if self._finder is None:
                yield [EMPTY for _ in block]
                continue
            texts = [q.query for q in block]
            vectors = self._finder.vectors(texts)
            shots = self._examples(block, vectors)
            similar = {
                name: exact(vectors, among=v, count=self._looked_at[name])[0]
                for name, v in self._value_vectors.items()
            }
            yield [
                self._context(evidence, shots[i], {
                    n: once([self._values[n][c] for c in rows[i]], self._spellings.get(n, {}), self._shown[n])
                    for n, rows in similar.items()
                })
                for i, evidence in enumerate(self._finder.find(texts, vectors))
            ]

    def _examples(self, queries: Sequence[Example], vectors: Vectors) -> list[list[dict[str, Any]]]:
        """The nearest gold rows of each query, without the query itself and its near-duplicates."""
        if not self._gold:
            return [[] for _ in queries]
        best, _ = exact(vectors, among=self._gold_vectors, count=self._few_shot + 8)
        out = []
        for query, row in zip(queries, best, strict=True):
            own = words_of(query.query, self._normalise)
            other = (e for words, e in (self._gold[c] for c in row) if not near_words(own, words))
            shown = itertools.islice(other, self._few_shot)
            out.append([shown_example(e) for e in shown])
        return out

    def _context(
        self, evidence: Evidence, examples: list[dict[str, Any]], similar: dict[str, list[str]]
    ) -> Context:
        return assemble(
            self._task, self._catalogue, evidence, examples=examples, similar=similar, spelling=self._spellings
        )


def assemble(
    task: Task, catalogue: Sequence[Item], evidence: Evidence, *, examples: Sequence[Mapping[str, Any]],
    similar: Mapping[str, Sequence[str]], spelling: Mapping[str, Spellings],
) -> Context:
    """The context of a query from what was found for it: the kinds that the task wants, cut to `context_tokens`.

    Args:
        spelling: See `spellings_of`.
    """
    settings = task.teacher.openai
    bought = sorted(evidence.conversions.items(), key=lambda x: (-x[1], x[0]))
    found: dict[str, Any] = {
        "examples": list(examples),
        "bought": [catalogue[r].title for r, _ in bought[: SHOWN["bought"]]],
        "converted": _converted(task, catalogue, evidence, spelling),
        "similar": dict(similar),
        "items": [catalogue[h.row].title for h in evidence.items[: SHOWN["items"]]],
        "neighbours": [q for q, _ in evidence.neighbours[: SHOWN["neighbours"]]],
    }
    chosen = {k: found[k] if k in settings.context else EMPTY[k] for k in KINDS}
    return cut(chosen, settings.context_tokens)


def spellings_of(task: Task, catalogue: Sequence[Item]) -> dict[str, Spellings]:
    """Role → spellings of its values in the catalogue.

    Of open roles only: each value of a closed role is asked for and answered as it is written.
    """
    normalise = remembering(normaliser(task.normaliser))
    return {r.name: spellings(r.catalogue, catalogue, normalise) for r in task.open_roles if r.catalogue}


def _converted(
    task: Task, catalogue: Sequence[Item], evidence: Evidence, spelling: Mapping[str, Spellings]
) -> dict[str, list[str]]:
    """Role → values of the items bought after the query and its neighbours, most purchases first."""
    out: dict[str, list[str]] = {}
    own = sum(evidence.conversions.values())
    near = sum(evidence.neighbour_conversions.values())
    for role in task.roles:
        if not role.catalogue:
            continue
        votes: Counter[str] = Counter()
        for purchases, weight in ((evidence.conversions, 1.0), (evidence.neighbour_conversions, 0.5)):
            scale = weight / (own if purchases is evidence.conversions else near) if purchases else 0.0
            for row, count in purchases.items():
                for value in catalogue[row].values(role.catalogue):
                    if role.shortlisted and value not in role.allowed:
                        continue  # a candidate that could not be the answer
                    votes[value] += scale * count  # type: ignore[assignment]
        if votes:
            best = [v for v, _ in sorted(votes.items(), key=lambda x: (-x[1], x[0]))]
            out[role.name] = once(best, spelling.get(role.name, {}), shown_values(role, "converted"))
    return out


def similar_values(task: Task, catalogue: Sequence[Item]) -> dict[str, list[str]]:
    """Role → the values that the kind `similar` chooses from.

    Of a grounded open role these are the catalogue's, of a closed role that is shortlisted all of them.
    """
    if "similar" not in task.teacher.openai.context:
        return {}
    grounded = {
        r.name: sorted({v for i in catalogue for v in i.values(r.catalogue)})
        for r in task.open_roles if r.catalogue and r.grounded
    }
    return grounded | {r.name: list(r.values) for r in task.closed_roles if r.shortlisted}


def shown_values(role: Role, kind: str) -> int:
    """The most values of a role in the kind `converted` or `similar`."""
    return _CANDIDATES if role.shortlisted else SHOWN[kind]


def shown_example(example: Example) -> dict[str, Any]:
    """A gold row as the kind `examples` has it."""
    return {"query": example.query, "labels": [{"role": x.role, "text": x.text} for x in example.labels]}


def cut(context: Context, budget: int) -> Context:
    """The most useful entries whose tokens fit the budget, in their order within each kind.

    Instructions, schema and query are not part of the context and are never cut.
    """
    entries: list[tuple[float, str, str | None, Any, int]] = []
    for kind in KINDS:
        held = context[kind]
        groups = held.items() if isinstance(held, Mapping) else [(None, held)]
        for group, values in groups:
            for rank, value in enumerate(values, 1):
                entries.append((_VALUE[kind] / rank, kind, group, value, tokens_of(str(value))))
    if sum(e[4] for e in entries) <= budget:
        return context
    kept: dict[str, Any] = {k: {} if isinstance(context[k], Mapping) else [] for k in KINDS}
    left = budget
    for _, kind, group, value, tokens in sorted(entries, key=lambda e: -e[0]):
        if tokens <= left:
            left -= tokens
            target = kept[kind] if group is None else kept[kind].setdefault(group, [])
            target.append(value)
    return kept


def tokens_of(text: str) -> int:
    """An estimate of a text's tokens that is rarely too low: word pieces of up to five letters, and every symbol."""
    return len(_PIECES.findall(text))


_PIECES = re.compile(r"[^\W\d_]{1,5}|\d{1,3}|[^\w\s]|_")


def without(context: Context, kinds: Sequence[str]) -> Context:
    """A context without some kinds."""
    return {k: EMPTY[k] if k in kinds else v for k, v in context.items()}


def support(context: Context, *, role: str, text: str, normalise: Callable[[str], str]) -> float:
    """How far a context supports a value, in [0, 1]: bought most, bought, similar or in a title, or not at all."""
    value = normalise(text)
    converted = [normalise(v) for v in context["converted"].get(role, ())]
    if value in converted:
        return 1.0 - 0.1 * converted.index(value)
    titles = [normalise(t) for t in (*context["bought"], *context["items"])]
    inside = sum(f" {value} " in f" {t} " for t in titles) / max(1, len(titles))
    known = value in {normalise(v) for v in context["similar"].get(role, ())}
    return min(0.6, 0.2 * known + 0.6 * inside)
