"""The codec: the reversible map between a labelling and what a student reads off or writes.

Compiled once from task, data and tokenizer, stored as JSON, used unchanged by training, evaluation and serving,
so that all three render the same ids. It makes three answer forms:

- `read`: nothing is written. The prompt is the query twice; in the second copy each unit's symbol (outside, begins
  role r, continues role r) is read at the unit's last token. Closed roles are read at probe tokens after it.
- `write`: the same symbols, written after the query, one token a unit.
- `json`: a JSON list of labels, for comparison (`task.json_form`).

`decode(encode(x)) == x` for every labelling that `representable` accepts, and any scores, symbols or text decode to
labels that the task allows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from task import transitions
from task.forms import json_text as json_form
from task.labels import Example, Label, Labelling, ordered
from task.segmentation import Segmentation, choose_segmentation, covers, units
from task.spec import Task
from task.viterbi import Floats, best_path, log_softmax, probabilities, spans_of


class Tokenizer(Protocol):
    """What the codec needs of a tokenizer; `task.tokens.load_tokenizer` gives one."""

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
        targets: The token id expected there, shape (targets,); empty when only the prompt was asked for.
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
        symbols: Indices into `Codec.symbol_ids`: (none, value 1, …) or (no, yes).
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
class Codec:
    """See the module.

    `symbol_ids` holds outside, (begin, continue) per open role, then the closed roles' symbols; `prefix` what the base
    expects before any text; `transitions` what labels say of which state follows which, shape (states, states), empty
    where only consistency counts.
    """

    form: str
    segmentation: Segmentation
    roles: tuple[str, ...]
    single: tuple[str, ...]
    closed: tuple[ClosedRole, ...]
    symbol_ids: tuple[int, ...]
    separator: tuple[int, ...]
    eos_id: int
    prefix: tuple[int, ...] = ()
    transitions: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def compile(cls, task: Task, examples: Iterable[Example], tokenizer: Tokenizer, form: str | None = None) -> Self:
        """Choose segmentation and symbols, and count the transitions of the examples where the task weighs them.

        Raises:
            ValueError: The tokenizer has too few single tokens for the task's symbols.
        """
        examples = list(examples)
        chosen = task.student.segmentation
        segmentation = choose_segmentation(examples) if chosen == "auto" else chosen
        capitals, small = tokenizer.symbol_candidates()
        need = len(task.open_roles)
        extra = sum(len(r.values) + 2 for r in task.closed_roles)
        if min(len(capitals), len(small)) < need + extra + 1:
            raise ValueError(f"the tokenizer has {len(small)} usable symbols, the task needs {need + extra + 1}")
        ids = [small[0]]
        for begin, go_on in zip(capitals[:need], small[1:], strict=False):
            ids += [begin, go_on]
        free_small, free_capitals = iter(small[need + 1 :]), iter(capitals[need:])
        closed = []
        for role in task.closed_roles:
            width = 2 if role.multiple else 1 + len(role.values)
            symbols = tuple(range(len(ids), len(ids) + width))
            ids += [next(free_small) for _ in symbols]
            probes = tuple(next(free_capitals) for _ in range(len(role.values) if role.multiple else 1))
            closed.append(ClosedRole(role.name, role.values, role.multiple, symbols, probes, role.requires))
        single = tuple(r.name for r in task.open_roles if not r.multiple)
        codec = cls(
            form or task.student.form, segmentation, tuple(r.name for r in task.open_roles), single,
            tuple(closed), tuple(ids), tuple(tokenizer.encode("\n")), tokenizer.eos_id, tokenizer.prefix,
        )
        weight = task.student.transitions
        return codec.chained(examples, weight) if weight and codec.form == "read" else codec

    def chained(self, examples: Iterable[Example], weight: float) -> Self:
        """The same with transitions counted from the examples that it can represent."""
        paths = (self.states(x) for x in examples if self.representable(x))
        return dataclasses.replace(self, transitions=transitions.learned(paths, len(self.roles), weight))

    # -- representation -------------------------------------------------------------------------------------------

    def representable(self, example: Example) -> bool:
        """Whether the form can say this labelling (nested or unit-cutting spans it cannot; `json` can)."""
        if self.form == "json":
            return True
        names = [x.role for x in example.labels]
        once = (*self.single, *(c.name for c in self.closed if not c.multiple))
        return all(names.count(n) <= 1 for n in once) and covers(example, self.segmentation)

    def states(self, example: Example) -> list[int]:
        """The state of every unit: 0 outside, `1 + 2r` begins open role r, `2 + 2r` continues it."""
        out = []
        for start, end in units(example.query, self.segmentation):
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
        return out

    @property
    def probe_count(self) -> int:
        """Probe tokens per query."""
        return sum(len(c.probes) for c in self.closed)

    # -- text to ids ----------------------------------------------------------------------------------------------

    def prompt(self, query: str, tokenizer: Tokenizer) -> Encoded:
        """What is sent for a query, with the positions to read (`read`) or none (`write`, `json`)."""
        ids = [*self.prefix, *tokenizer.encode(query), *self.separator]
        if self.form != "read":
            return Encoded(ids, [], [])
        positions = []
        at = 0
        for _, end in units(query, self.segmentation):
            piece = tokenizer.encode(query[at:end])
            ids += piece or [self.symbol_ids[0]]
            positions.append(len(ids) - 1)
            at = end
        if self.closed:
            ids += self.separator
            for role in self.closed:
                for probe in role.probes:
                    ids.append(probe)
                    positions.append(len(ids) - 1)
        return Encoded(ids, positions, [])

    def encode(self, example: Example, tokenizer: Tokenizer) -> Encoded:
        """Prompt and supervision of a labelled example; supervised ids are exactly the answer (and the stop token).

        Raises:
            ValueError: The labelling is not representable in this form, or nothing would be supervised.
        """
        if not self.representable(example):
            raise ValueError(f"the labelling of {example.query!r} cannot be represented in the form {self.form!r}")
        prompt = self.prompt(example.query, tokenizer)
        if self.form == "json":
            text = json_form.render(example)
            answer = [*tokenizer.encode(text), self.eos_id]
        else:
            answer = [self.symbol_ids[s] for s in self.answer(example)]
        if not answer:
            raise ValueError(f"nothing to supervise in {example.query!r}")
        if self.form == "read":
            return Encoded(prompt.ids, prompt.positions, answer)
        first = len(prompt.ids) - 1
        return Encoded(prompt.ids + answer[:-1], list(range(first, first + len(answer))), answer)

    def answer_length(self, query: str) -> int:
        """Tokens that the `write` form decodes for a query."""
        return len(units(query, self.segmentation)) + self.probe_count

    # -- scores, symbols or text to labels ------------------------------------------------------------------------

    def decode_scores(self, query: str, scores: npt.ArrayLike) -> Labelling:
        """Labels from scores at the read positions, best consistent labelling, with span probabilities.

        Args:
            query: The query that the prompt was made from.
            scores: Logits or log-probabilities, shape (units + probes, len(symbol_ids)).
        """
        return self.judge_scores(query, scores)[0]

    def judge_scores(self, query: str, scores: npt.ArrayLike) -> tuple[Labelling, float]:
        """What `decode_scores` gives, and the probability of that labelling as a whole, in [0, 1].

        The latter is the share of the best symbols among all consistent ones, times that of each closed role's answer:
        it is defined for a query without labels too.
        """
        spans = units(query, self.segmentation)
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
        return self._once(out), raw_probability

    def _best(self, scores: Floats) -> tuple[list[tuple[int, int, int]], float, list[float]]:
        """The spans of the best path, the probability of the whole path, and that of each span."""
        if not self.transitions:
            path = best_path(scores)
            found = spans_of(path)
            return found, *probabilities(scores, path, found)
        path = transitions.best_path(scores, self._between)
        found = spans_of(path)
        return found, *transitions.probabilities(scores, self._between, path, found)

    @cached_property
    def _between(self) -> Floats:
        """What `transitions` says as a matrix: made once, used for every query."""
        return transitions.steps(self.transitions)

    def decode_symbols(self, query: str, ids: Sequence[int], log_probabilities: Sequence[float]) -> Labelling:
        """Labels from written symbols, whatever they are; what has no meaning at its place counts as outside."""
        return self.judge_symbols(query, ids, log_probabilities)[0]

    def judge_symbols(
        self, query: str, ids: Sequence[int], log_probabilities: Sequence[float]
    ) -> tuple[Labelling, float]:
        """What `decode_symbols` gives, and the probability of that labelling as a whole."""
        index = {token: i for i, token in enumerate(self.symbol_ids)}
        rows = self.answer_length(query)
        scores = np.full((rows, len(self.symbol_ids)), -30.0)
        for row, (token, log_probability) in enumerate(zip(ids[:rows], log_probabilities, strict=False)):
            if token in index:
                p = float(np.exp(min(log_probability, -1e-9)))
                scores[row] = np.log(max((1.0 - p) / max(1, len(self.symbol_ids) - 1), 1e-13))
                scores[row, index[token]] = np.log(max(p, 1e-13))
        return self.judge_scores(query, scores)

    def decode_text(self, query: str, text: str, task: Task) -> Labelling | None:
        """Labels from a written JSON answer, or None when it is not one."""
        labels = json_form.parse(query, text, task)
        return None if labels is None else self._once(list(labels))

    def _once(self, labels: list[Label]) -> Labelling:
        """Roles that take one value keep their most probable one; one that requires another does not stand alone."""
        keep: list[Label] = []
        for label in sorted(labels, key=lambda x: -(x.confidence or 0.0)):
            if label.role not in self.single or all(k.role != label.role for k in keep):
                keep.append(label)
        have = {k.role for k in keep}
        needs = {c.name: c.requires for c in self.closed if c.requires}
        return ordered(k for k in keep if k.role not in needs or have & set(needs[k.role]))

    # -- storage --------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read a stored codec."""
        closed = tuple(
            ClosedRole(
                c["name"], tuple(c["values"]), c["multiple"], tuple(c["symbols"]), tuple(c["probes"]),
                tuple(c["requires"]),
            )
            for c in value["closed"]
        )
        lists = {k: tuple(value[k]) for k in ("roles", "single", "symbol_ids", "separator")}
        lists["prefix"] = tuple(value.get("prefix", ()))  # codecs of before had none
        return cls(
            form=value["form"], segmentation=value["segmentation"], eos_id=value["eos_id"], closed=closed, **lists,
            transitions=tuple(tuple(row) for row in value.get("transitions", ())),
        )


def load_codec(path: Path) -> Codec:
    """The codec of a bundle, adapter or merged-model folder."""
    from task.files import read_json

    return Codec.from_json(read_json(path / "codec.json"))
