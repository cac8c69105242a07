"""The codec: the reversible map between a labelling and the student's answer.

Compiled once from task, data and tokenizer, stored as JSON, used unchanged by training, evaluation and serving,
so that all three render the same ids. What the answer looks like is one of three answer forms (`task.forms`):

- `read`: nothing is generated. The prompt is the query twice; in the second copy each unit's symbol (outside, begins
  role r, continues role r) is read at the unit's last token. Closed roles are read at probe tokens after it.
- `write`: the same symbols, generated after the query, one token a unit; then a line for each value of a text role.
  Without open roles no unit has a symbol.
- `json`: a generated JSON list of labels, for comparison.

`decode(encode(x)) == x` for every labelling that `representable` accepts, and any scores, symbols or text decode to
labels that the task allows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from task.errors import InputError
from task.files import read_json
from task.forms import FORMS, AnswerForm, Decoded
from task.labels import Example
from task.role import Role
from task.segmentation import choose_segmentation
from task.spec import TEXT_FORMS, Task
from task.symbols import ClosedRole, Encoded, SymbolTable, Tokenizer
from task.tree_role import TreeRole
from task.value_tree import MOST_SYMBOLS, ValueTree, tree_of
from task.written_texts import TextRole, WrittenTexts, read

# Increase this when the same labels give other token ids, or the same output other labels: students are trained again.
VERSION = 1
_UNTAGGED = 1  # added to it for tasks whose units lost their symbols: the students of others stand

__all__ = ["ClosedRole", "Codec", "Encoded", "Tokenizer", "is_tagged", "load_codec", "version"]


def version(task: Task) -> int:
    """The version of the codec that the task's students are trained with."""
    return VERSION if is_tagged(task, task.student.form) else VERSION + _UNTAGGED


def is_tagged(task: Task, form: str) -> bool:
    """Whether each unit of a query has a symbol (`SymbolTable.tagged`)."""
    return bool(task.open_roles) or FORMS[form].output != "symbols"


@dataclass(frozen=True)
class Codec(SymbolTable):
    """The symbols of a task, and the answer form in which the student gives them.

    Attributes:
        form: Name of the answer form, a key of `task.forms.FORMS`; `answer_form` is the form itself.
    """

    form: str = dataclasses.field(kw_only=True)

    @classmethod
    def compile(cls, task: Task, examples: Iterable[Example], tokenizer: Tokenizer, form: str | None = None) -> Self:
        """Choose segmentation and symbols, and count the transitions of the examples where the task weighs them.

        Args:
            form: Name of the answer form; None takes the task's.

        Raises:
            InputError: The form cannot answer the task's text roles, the tokenizer has too few single tokens for the
                task's symbols, or a role that can have several values has too many.
        """
        if task.text_roles and (form or task.student.form) not in TEXT_FORMS:
            raise InputError(
                "this answer form cannot give free text", field=f"roles.{task.text_roles[0].name}.kind",
                found=f"`kind: text` with the form `{form or task.student.form}`",
                expected=f"one of the forms: {', '.join(TEXT_FORMS)}",
            )
        examples = list(examples)
        chosen = task.student.segmentation
        segmentation = choose_segmentation(examples) if chosen == "auto" else chosen
        capitals, small = tokenizer.symbol_candidates()
        need = len(task.open_roles)
        trees = {r.name: tree for r in task.closed_roles if (tree := _tree(r)) is not None}
        extra = sum(
            trees[r.name].width + trees[r.name].depth if r.name in trees else len(r.values) + 2
            for r in task.closed_roles
        ) + len(task.text_roles)
        if min(len(capitals), len(small)) < need + extra + 1:
            raise InputError(
                "the base's tokenizer has too few tokens for the symbols of this task", field="student.base",
                found=f"{min(len(capitals), len(small))} usable ones", expected=f"at least {need + extra + 1}",
                fix="Take a base with a larger vocabulary, or closed roles with fewer values",
            )
        ids = [small[0]]
        for begin, go_on in zip(capitals[:need], small[1:], strict=False):
            ids += [begin, go_on]
        free_small, free_capitals = iter(small[need + 1 :]), iter(capitals[need:])

        def taken(*, width: int, probes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
            """The next free symbols, as indices, and probes, as token ids."""
            symbols = tuple(range(len(ids), len(ids) + width))
            ids.extend(itertools.islice(free_small, width))
            return symbols, tuple(itertools.islice(free_capitals, probes))

        closed, with_trees = [], []
        for role in (r for r in task.closed_roles if r.name not in trees):
            width, probes = (2, len(role.values)) if role.multiple else (1 + len(role.values), 1)
            own = taken(width=width, probes=probes)
            closed.append(ClosedRole(role.name, role.values, role.multiple, *own, role.requires))
        for role in (r for r in task.closed_roles if r.name in trees):
            tree = trees[role.name]
            own = taken(width=tree.width, probes=tree.depth)
            with_trees.append(TreeRole(role.name, tree.values, tree.parents, tree.codes, *own, role.requires))
        texts = tuple(TextRole(r.name, next(free_small), r.most_texts) for r in task.text_roles)
        codec = cls(
            form=form or task.student.form, segmentation=segmentation, roles=tuple(r.name for r in task.open_roles),
            single=tuple(r.name for r in task.open_roles if not r.multiple), closed=tuple(closed),
            symbol_ids=tuple(ids), separator=tuple(tokenizer.encode("\n")), eos_id=tokenizer.eos_id,
            prefix=tokenizer.prefix, trees=tuple(with_trees), texts=texts,
            tagged=is_tagged(task, form or task.student.form),
        )
        weight = task.student.transitions
        return codec.with_transitions(examples, weight) if weight and codec.answer_form.output == "scores" else codec

    @property
    def answer_form(self) -> AnswerForm:
        """The form in which the student answers."""
        return FORMS[self.form]

    # -- labels to ids --------------------------------------------------------------------------------------------

    def representable(self, example: Example) -> bool:
        """Whether the form can express this labelling."""
        return self.answer_form.representable(self, example)

    def prompt(self, query: str, tokenizer: Tokenizer) -> Encoded:
        """The prompt of a query and the positions to read; no positions if the answer is generated."""
        return self.answer_form.prompt(self, query, tokenizer)

    def encode(self, example: Example, tokenizer: Tokenizer) -> Encoded:
        """Prompt and supervision of a labelled example; supervised ids are exactly the answer (and the stop token).

        Raises:
            ValueError: The labelling is not representable in this form, or nothing would be supervised.
        """
        if not self.representable(example):
            raise ValueError(f"the labelling of {example.query!r} cannot be represented in the form {self.form!r}")
        prompt = self.prompt(example.query, tokenizer)
        answer = self.answer_form.answer(self, example, tokenizer)
        if not answer:
            raise ValueError(f"nothing to supervise in {example.query!r}")
        return self.answer_form.supervise(prompt, answer)

    # -- the model's output to labels -----------------------------------------------------------------------------

    def decode(self, query: str, output: Any, task: Task) -> Decoded:
        """Labels from the model's output for a query; `answer_form.output` is the kind of this output."""
        return self.answer_form.decode(self, query, output, task)

    def written_texts(
        self, ids: Sequence[int], log_probabilities: Sequence[float], tokenizer: Tokenizer
    ) -> WrittenTexts:
        """The texts that were generated after the symbols: the third part of the output `symbols`."""
        return read(
            ids, log_probabilities, self.texts, separator=self.separator, eos_id=self.eos_id, decode=tokenizer.decode
        )

    # -- storage --------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse. `form` comes first, as in every stored codec.json.

        `trees` and `texts` are left out where there are none, and `tagged` where it is true, so that the codec of such
        a task is what it was before there were any.
        """
        out = {"form": self.form} | dataclasses.asdict(self)
        if self.tagged:
            del out["tagged"]
        return {k: v for k, v in out.items() if v or k not in {"trees", "texts"}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read a stored codec; one of an earlier version may lack the fields that have a default."""
        closed = tuple(
            ClosedRole(
                c["name"], tuple(c["values"]), c["multiple"], tuple(c["symbols"]), tuple(c["probes"]),
                tuple(c["requires"]),
            )
            for c in value["closed"]
        )
        trees = tuple(
            TreeRole(t["name"], *(tuple(t[k]) for k in ("values", "parents", "codes", "symbols", "probes", "requires")))
            for t in value.get("trees", ())
        )
        lists = {k: tuple(value[k]) for k in ("roles", "single", "symbol_ids", "separator")}
        lists["prefix"] = tuple(value.get("prefix", ()))
        return cls(
            form=value["form"], segmentation=value["segmentation"], eos_id=value["eos_id"], closed=closed, **lists,
            transitions=tuple(tuple(row) for row in value.get("transitions", ())), trees=trees,
            texts=tuple(TextRole(**t) for t in value.get("texts", ())), tagged=value.get("tagged", True),
        )


def _tree(role: Role) -> ValueTree | None:
    """The tree of a closed role, as its codec has it; None for one with a symbol for each value.

    Raises:
        InputError: The role can have several values, and has too many for a probe each.
    """
    tree = tree_of(role.values, role.separator)
    if tree is not None and role.multiple:
        raise InputError(
            "a role of so many values can have only one of them: several are not supported yet",
            field=f"roles.{role.name}.multiple", found=f"{len(role.values):,} values and `multiple: true`",
            expected=f"`multiple: false`, or at most {MOST_SYMBOLS:,} values",
        )
    return tree


def load_codec(path: Path) -> Codec:
    """The codec of a bundle, adapter or merged-model folder."""
    return Codec.from_json(read_json(path / "codec.json"))
