"""A closed role whose values are a tree: a path of symbols, one read at each of its probes, and its decoding.

At the probe of a level the symbols of a node's children compete with each other and with "none of these", symbol 0.
So a path has the probability of its steps, and every node that of all paths through it: a leaf is never more probable
than its parent. "None of these" at the first level means that the query has no value of the role; further down, that it
is the node itself, which a label may be, and no child of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from task.value_tree import depths
from task.viterbi import Floats

_ROOT = -1
_IMPOSSIBLE = -1e30  # for -inf, of which a softmax among nothing else would be no number


class Answer(NamedTuple):
    """A value with its probability; None is "none of these"."""

    value: str | None
    probability: float


class Step(NamedTuple):
    """The choice at one level of a path.

    Attributes:
        parent: The node among whose children it is made; -1 for the root.
        codes: Among which codes it is made.
        names: What each stands for: a value (of an inserted node the first one below it), or `nothing`.
        chosen: The index of the one on the path.
    """

    parent: int
    codes: tuple[int, ...]
    names: tuple[str, ...]
    chosen: int


class _Level(NamedTuple):
    """The choices at one level, those of one parent side by side: "none of these" first, where it can stand.

    Attributes:
        nodes: The node that each choice leads to; for "none of these" the parent itself.
        ends: Whether nothing follows it.
        codes: Its code.
        begins: The first choice of each parent.
        of: The parent, as an index into `begins`.
        above: The choice of the level before that leads to each parent.
    """

    nodes: npt.NDArray[np.int64]
    ends: npt.NDArray[np.bool_]
    codes: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    of: npt.NDArray[np.int64]
    above: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TreeRole:
    """A role with a tree of values in the codec, single-valued; nodes are stored as in `task.value_tree.ValueTree`.

    Attributes:
        values: The value of each node; empty for one of an inserted level.
        parents: Index of its parent; -1 for the root.
        codes: Which symbol names it among its siblings, an index into `symbols`.
        symbols: Indices into `SymbolTable.symbol_ids`: (none of these, child 1, …).
        probes: Token ids of the probes, one for each level.
        requires: Roles of which the query must have one.
    """

    name: str
    values: tuple[str, ...]
    parents: tuple[int, ...]
    codes: tuple[int, ...]
    symbols: tuple[int, ...]
    probes: tuple[int, ...]
    requires: tuple[str, ...] = ()

    def path(self, value: str | None) -> list[int]:
        """The code at each level; 0 for None, and below the value.

        Raises:
            KeyError: The tree has no such value.
        """
        out = [self.codes[node] for node in self._above(_ROOT if value is None else self._node_of[value])]
        return out + [0] * (len(self.probes) - len(out))

    def steps(self, value: str | None) -> list[Step]:
        """The choices that lead to a value, "none of these" at its end included; KeyError as in `path`."""
        node = _ROOT if value is None else self._node_of[value]
        out, parent = [], _ROOT
        for child in (*self._above(node), None):
            children = self._children.get(parent, [])
            if not children:
                break
            stop = [0] if self._may_end(parent) else []
            here = "nothing" if parent == _ROOT else self.values[parent]
            names = (*(here for _ in stop), *(self._name(c) for c in children))
            chosen = 0 if child is None else len(stop) + children.index(child)
            out.append(Step(parent, (*stop, *(self.codes[c] for c in children)), names, chosen))
            parent = _ROOT if child is None else child
        return out

    def decode(self, scores: npt.ArrayLike, least: float = 0.0) -> Answer:
        """The answer under the tree, exact: the most probable of all paths.

        If the node to which that path leads is less probable than `least`, the answer is the deepest node that is not,
        the more probable one of two at the same depth; "none of these" if there is no such node.

        Args:
            scores: Logits or log-probabilities of `symbols` at the probes, shape (levels, symbols).
            least: The least probability of a node as an answer.

        Returns:
            The value with the probability of its node, which is the sum over all paths through it.
        """
        scored = self._scored(scores)
        best = int(np.where(self._ends, scored, -np.inf).argmax())
        node = int(self._nodes[best])
        probabilities = np.exp(scored)
        none = float(probabilities[0])
        if node == _ROOT:
            return Answer(None, none)
        found = float(probabilities[self._choice_of[node]])
        if found < least:
            masses = probabilities[self._choice_of]
            enough = self._answers & (masses >= least)
            if not enough.any():
                return Answer(None, none)
            node = int(np.where(enough, self._depths + masses / 2, -1.0).argmax())
            found = float(masses[node])
        return Answer(self.values[node], found)

    def ranked(self, scores: npt.ArrayLike, count: int) -> list[Answer]:
        """The most probable answers, "none of these" among them, best first; their probabilities are those of paths.

        A node with children stands for itself here, so all probabilities together are 1.

        Args:
            scores: As in `decode`.
            count: At least 1; there may be fewer answers.
        """
        scored = np.where(self._ends, self._scored(scores), -np.inf)
        count = min(count, int(self._ends.sum()))
        top = np.argpartition(-scored, count - 1)[:count]
        top = top[np.lexsort((top, -scored[top]))]
        return [
            Answer(None if self._nodes[x] == _ROOT else self.values[self._nodes[x]], float(np.exp(scored[x])))
            for x in top
        ]

    def none_probability(self, scores: npt.ArrayLike) -> float:
        """The probability of "none of these": that the query has no value of the role."""
        return float(np.exp(self._scored(scores)[0]))

    # -- the tree, as arrays that are made once ------------------------------------------------------------------

    def _scored(self, scores: npt.ArrayLike) -> Floats:
        """The log-probability of every choice and all that lead to it, level after level."""
        table = np.maximum(np.asarray(scores, dtype=np.float64), _IMPOSSIBLE)
        out: list[Floats] = []
        for level, row in zip(self._levels, table, strict=True):
            x = row[level.codes]
            x = x - np.maximum.reduceat(x, level.begins)[level.of]
            before = -np.log(np.add.reduceat(np.exp(x), level.begins))
            if out:
                before = before + out[-1][level.above]
            out.append(x + before[level.of])
        return np.concatenate(out)

    @cached_property
    def _node_of(self) -> dict[str, int]:
        return {value: node for node, value in enumerate(self.values) if value}

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        out: dict[int, list[int]] = {}
        for node, parent in enumerate(self.parents):
            out.setdefault(parent, []).append(node)
        return out

    def _may_end(self, node: int) -> bool:
        """Whether a path may end at a node with children: the root, or a node that is a value."""
        return node == _ROOT or bool(self.values[node])

    def _name(self, node: int) -> str:
        while not self.values[node]:
            node = self._children[node][0]
        return self.values[node]

    def _above(self, node: int) -> Sequence[int]:
        """The nodes from the first level down to one."""
        out: list[int] = []
        while node != _ROOT:
            out.append(node)
            node = self.parents[node]
        return out[::-1]

    @cached_property
    def _levels(self) -> list[_Level]:
        out: list[_Level] = []
        parents, at = [_ROOT], {_ROOT: 0}  # the nodes of the level before with children, and the choices leading there
        while parents:
            nodes: list[int] = []
            ends: list[bool] = []
            codes: list[int] = []
            begins: list[int] = []
            of: list[int] = []
            for number, parent in enumerate(parents):
                begins.append(len(nodes))
                if self._may_end(parent):
                    nodes.append(parent)
                    ends.append(True)
                    codes.append(0)
                children = self._children[parent]
                nodes += children
                ends += [c not in self._children for c in children]
                codes += [self.codes[c] for c in children]
                of += [number] * (len(nodes) - begins[-1])
            out.append(_Level(
                np.array(nodes), np.array(ends), np.array(codes), np.array(begins), np.array(of),
                np.array([at[p] for p in parents]),
            ))
            at = {node: place for place, (node, code) in enumerate(zip(nodes, codes, strict=True)) if code}
            parents = [node for node in at if node in self._children]
        return out

    @cached_property
    def _nodes(self) -> npt.NDArray[np.int64]:
        return np.concatenate([level.nodes for level in self._levels])

    @cached_property
    def _ends(self) -> npt.NDArray[np.bool_]:
        return np.concatenate([level.ends for level in self._levels])

    @cached_property
    def _choice_of(self) -> npt.NDArray[np.int64]:
        """For each node the choice that leads to it."""
        codes = np.concatenate([level.codes for level in self._levels])
        out = np.zeros(len(self.values), dtype=np.int64)
        out[self._nodes[codes > 0]] = np.flatnonzero(codes > 0)
        return out

    @cached_property
    def _answers(self) -> npt.NDArray[np.bool_]:
        """Which nodes are values."""
        return np.array([bool(v) for v in self.values])

    @cached_property
    def _depths(self) -> npt.NDArray[np.float64]:
        return np.array(depths(self.parents), dtype=np.float64)
