"""Symbols: a labelling as one token for each unit of the query and one for each probe of a closed role.

For open roles this is BIO tagging (begin, inside, outside): a unit's symbol says that it is outside, begins role r or
continues role r. A closed role is a classification of the whole query, answered at probe tokens that follow it; where
it has a taxonomy, or too many values for a symbol each, by a path of symbols (`task.tree_role`). The answer forms
`read` and `write` (`task.forms`) differ in how the model gives the symbols, not in what they mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from task import transitions
from task.labels import Example, Label, Labelling, ordered, surest_first
from task.segmentation import Segmentation, Span, covers, units
from task.tree_role import Answer, TreeRole
from task.viterbi import Floats, best_path, log_softmax, probabilities, spans_of
from task.written_texts import TextRole

_LEAST_PROBABILITY = 1e-13


class Tokenizer(Protocol):
    """What the codec needs of a tokenizer; `task.tokenizer.load_tokenizer` gives one."""

    eos_id: int
    prefix: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special tokens added or recognised."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""

    def symbol_candidates(self) -> tuple[list[int], list[int]]:
        """Ids of short single tokens that encode to themselves: (capitalised, lower case), in a fixed order."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A training or inference example.

    Attributes:
        ids: Input token ids, shape (length,).
        positions: Where the model's output counts, shape (targets,).
        targets: The token id expected there, shape (targets,); empty for a prompt alone.
    """

    ids: list[int]
    positions: list[int]
    targets: list[int]


@dataclass(frozen=True, slots=True)
class ClosedRole:
    """A closed role in the codec.

    Single-valued: one probe, one symbol per value and one for none. Several values: a probe per value, answered by
    no or yes.

    Attributes:
        symbols: Indices into `SymbolTable.symbol_ids`: (none, value 1, …) or (no, yes).
        probes: Token ids of the probes.
        requires: Roles of which the query must have one.
    """

    name: str
    values: tuple[str, ...]
    multiple: bool
    symbols: tuple[int, ...]
    probes: tuple[int, ...]
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class SymbolTable:
    """The meaning of each symbol token, and the decoding of scores of these tokens into labels.

    Attributes:
        roles: Open roles, in the order of their states.
        single: The open roles that take at most one value.
        symbol_ids: Token ids of outside, of (begin, continue) per open role, then of the closed roles' symbols.
        trees: The closed roles whose values are a tree; their probes follow those of the others.
        texts: The text roles, whose values are written after the symbols (`task.written_texts`).
        tagged: Whether each unit of the query has a symbol. False only where every one would say "outside": in the form
            `write` of a task without open roles, where each symbol costs a generated token.
        separator: Token ids between the query and what follows it, and after each written text.
        prefix: Token ids that the base expects before any text.
        transitions: Scores of one state following another, shape (states, states); empty if the only constraint of
            decoding is that a continuation follows its own role.
    """

    segmentation: Segmentation
    roles: tuple[str, ...]
    single: tuple[str, ...]
    closed: tuple[ClosedRole, ...]
    symbol_ids: tuple[int, ...]
    separator: tuple[int, ...]
    eos_id: int
    prefix: tuple[int, ...] = ()
    transitions: tuple[tuple[float, ...], ...] = ()
    trees: tuple[TreeRole, ...] = ()
    texts: tuple[TextRole, ...] = ()
    tagged: bool = True

    def with_transitions(self, examples: Iterable[Example], weight: float) -> Self:
        """A copy with transition scores counted from the examples that symbols can represent."""
        paths = (self.states(x) for x in examples if self.symbols_represent(x))
        counted = transitions.count_transitions(paths, len(self.roles), weight)
        return dataclasses.replace(self, transitions=counted)

    def symbols_represent(self, example: Example) -> bool:
        """Whether symbols can express a labelling: not nested spans, spans that cut a unit, or too many values."""
        names = [x.role for x in example.labels]
        one_value = (
            *self.single, *(c.name for c in self.closed if not c.multiple), *(t.name for t in self.trees)
        )
        if any(names.count(t.name) > t.most for t in self.texts):
            return False
        return all(names.count(n) <= 1 for n in one_value) and covers(example, self.segmentation)

    def tagged_units(self, query: str) -> list[Span]:
        """`[start, end)` of every unit that has a symbol, in order."""
        return units(query, self.segmentation) if self.tagged else []

    def states(self, example: Example) -> list[int]:
        """The state of every tagged unit: 0 outside, `1 + 2r` begins open role r, `2 + 2r` continues it."""
        out = []
        for start, end in self.tagged_units(example.query):
            state = 0
            for label in example.labels:
                if label.start is not None and label.end is not None and label.start <= start and end <= label.end:
                    state = 1 + 2 * self.roles.index(label.role) + (start > label.start)
            out.append(state)
        return out

    def answer(self, example: Example) -> list[int]:
        """Indices into `symbol_ids`: the units' states, then one per probe."""
        out = self.states(example)
        for role in self.closed:
            held = {x.text for x in example.labels if x.role == role.name}
            if role.multiple:
                out += [role.symbols[int(v in held)] for v in role.values]
            else:
                out.append(role.symbols[1 + role.values.index(min(held)) if held else 0])
        for tree in self.trees:
            out += [tree.symbols[code] for code in tree.path(example.value(tree.name))]
        return out

    @property
    def _probed(self) -> tuple[ClosedRole | TreeRole, ...]:
        """The roles that are answered at probes, in the order of a prompt."""
        return (*self.closed, *self.trees)

    @cached_property
    def probes(self) -> tuple[int, ...]:
        """Token ids of all probes, in the order of a prompt."""
        return tuple(probe for role in self._probed for probe in role.probes)

    @property
    def probe_count(self) -> int:
        """Probe tokens per query."""
        return len(self.probes)

    def symbol_count(self, query: str) -> int:
        """Symbols of an answer: one for each tagged unit of the query and one for each probe."""
        return len(self.tagged_units(query)) + self.probe_count

    def allowed_symbols(self, query: str) -> list[frozenset[int]]:
        """The token ids that can stand in each place of an answer: the units' states, then those of each probe."""
        states = frozenset(self.symbol_ids[: 1 + 2 * len(self.roles)])
        out = [states] * len(self.tagged_units(query))
        for role in self._probed:
            out += [frozenset(self.symbol_ids[s] for s in role.symbols)] * len(role.probes)
        return out

    # -- scores or symbols to labels ------------------------------------------------------------------------------

    def decode_scores(self, query: str, scores: npt.ArrayLike) -> Labelling:
        """Labels from scores at the read positions, best consistent labelling, with span probabilities.

        Args:
            query: The query that the prompt was made from.
            scores: Logits or log-probabilities, shape (units + probes, len(symbol_ids)).

        Raises:
            ValueError: The scores have another number of rows.
        """
        return self.decode_scores_with_probability(query, scores)[0]

    def decode_scores_with_probability(
        self, query: str, scores: npt.ArrayLike, least: Mapping[str, float] | None = None
    ) -> tuple[Labelling, float]:
        """What `decode_scores` gives, and the probability of that labelling as a whole, in [0, 1].

        The probability is the share of the best symbol sequence among all consistent ones, times the probability of
        each closed role's answer; it is also defined for a query without labels.

        Args:
            query: As in `decode_scores`.
            scores: As in `decode_scores`.
            least: Role → the least probability with which a node of its tree is the answer (`TreeRole.decode`).
        """
        spans = self.tagged_units(query)
        table = np.asarray(scores, dtype=np.float64).reshape(-1, len(self.symbol_ids))
        if len(table) != len(spans) + self.probe_count:
            raise ValueError(f"{len(table)} rows of scores for {len(spans)} units and {self.probe_count} probes")
        states = 1 + 2 * len(self.roles)
        out = []
        raw_probability = 1.0
        if spans:
            found, raw_probability, shares = self._best(log_softmax(table[: len(spans), :states]))
            for (role, first, end), probability in zip(found, shares, strict=True):
                start, stop = spans[first][0], spans[end - 1][1]
                out.append(Label(self.roles[role], query[start:stop], start, stop, probability))
        row = len(spans)
        for closed in self.closed:
            part = np.exp(log_softmax(table[row : row + len(closed.probes)][:, list(closed.symbols)]))
            row += len(closed.probes)
            raw_probability *= float(part.max(axis=1).prod())
            if closed.multiple:
                yes = [(v, float(p)) for v, p in zip(closed.values, part[:, 1], strict=True) if p > 0.5]
                out += [Label(closed.name, v, confidence=p) for v, p in yes]
            else:
                best = int(part[0].argmax())
                if best:
                    out.append(Label(closed.name, closed.values[best - 1], confidence=float(part[0, best])))
        for tree in self.trees:
            answer = tree.decode(self._of_tree(tree, table), (least or {}).get(tree.name, 0.0))
            raw_probability *= answer.probability
            if answer.value is not None:
                out.append(Label(tree.name, answer.value, confidence=answer.probability))
        return self.enforce_constraints(out), raw_probability

    def ranked(self, scores: npt.ArrayLike, role: str, count: int) -> list[Answer]:
        """The most probable answers of a role whose values are a tree, best first (`TreeRole.ranked`).

        Args:
            scores: As in `decode_scores`.

        Raises:
            ValueError: No role with a tree has this name.
        """
        tree, table = self._tree_and_scores(scores, role)
        return tree.ranked(table, count)

    def none_probability(self, scores: npt.ArrayLike, role: str) -> float:
        """The probability that a query has no value of a role whose values are a tree; arguments as in `ranked`."""
        tree, table = self._tree_and_scores(scores, role)
        return tree.none_probability(table)

    def _tree_and_scores(self, scores: npt.ArrayLike, role: str) -> tuple[TreeRole, Floats]:
        tree = next((t for t in self.trees if t.name == role), None)
        if tree is None:
            raise ValueError(f"{role!r} has no tree of values; those with one: {[t.name for t in self.trees]}")
        table = np.asarray(scores, dtype=np.float64).reshape(-1, len(self.symbol_ids))
        return tree, self._of_tree(tree, table)

    def _of_tree(self, tree: TreeRole, table: Floats) -> Floats:
        """The scores of a tree's symbols at its probes, which are the last rows in the order of the trees."""
        at = next(i for i, t in enumerate(self.trees) if t.name == tree.name)
        after = sum(len(t.probes) for t in self.trees[at:])
        rows = table[len(table) - after : len(table) - after + len(tree.probes)]
        return rows[:, list(tree.symbols)]

    def _best(self, scores: Floats) -> tuple[list[tuple[int, int, int]], float, list[float]]:
        """The spans of the best path, the probability of the whole path, and that of each span."""
        if not self.transitions:
            path = best_path(scores)
            found = spans_of(path)
            return found, *probabilities(scores, path, found)
        path = transitions.best_path(scores, self._transition_matrix)
        found = spans_of(path)
        return found, *transitions.probabilities(scores, self._transition_matrix, path, found)

    @cached_property
    def _transition_matrix(self) -> Floats:
        """`transitions` as a matrix: made once, used for every query."""
        return transitions.constrained_matrix(self.transitions)

    def decode_symbols(self, query: str, ids: Sequence[int], log_probabilities: Sequence[float]) -> Labelling:
        """Labels from generated symbols; a token that is not a symbol of its place counts as outside.

        Args:
            ids: Generated token ids, one for each unit and probe; missing ones count as unknown.
            log_probabilities: Of each generated token, natural logarithm.
        """
        return self.decode_symbols_with_probability(query, ids, log_probabilities)[0]

    def decode_symbols_with_probability(
        self, query: str, ids: Sequence[int], log_probabilities: Sequence[float],
        least: Mapping[str, float] | None = None,
    ) -> tuple[Labelling, float]:
        """What `decode_symbols` gives, and the probability of that labelling as a whole.

        The probability that remains beside a generated token's is spread evenly over the other symbols.
        """
        index = {token: i for i, token in enumerate(self.symbol_ids)}
        rows = self.symbol_count(query)
        scores = np.full((rows, len(self.symbol_ids)), -30.0)
        for row, (token, log_probability) in enumerate(zip(ids[:rows], log_probabilities, strict=False)):
            if token in index:
                p = float(np.exp(min(log_probability, -1e-9)))
                scores[row] = np.log(max((1.0 - p) / max(1, len(self.symbol_ids) - 1), _LEAST_PROBABILITY))
                scores[row, index[token]] = np.log(max(p, _LEAST_PROBABILITY))
        return self.decode_scores_with_probability(query, scores, least)

    def enforce_constraints(self, labels: Iterable[Label]) -> Labelling:
        """Keep the most probable value of a single-valued role; drop closed roles without the roles they require."""
        keep: list[Label] = []
        for label in surest_first(labels):
            if label.role not in self.single or all(k.role != label.role for k in keep):
                keep.append(label)
        have = {k.role for k in keep}
        needs = {c.name: c.requires for c in self._probed if c.requires}
        return ordered(k for k in keep if k.role not in needs or have & set(needs[k.role]))
