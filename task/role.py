"""A role of the task file: one named thing to extract, and the guardrails for a teacher's labels of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from task.settings import Positive, Strict
from task.value_tree import MOST_SYMBOLS, is_tree, nodes, path_problem

# Paths of a taxonomy that a prompt lists; of a larger one it shows candidates. A prompt of 200 paths has about 2,000
# tokens for them. A flat set is listed as long as each value has a symbol.
MOST_LISTED = 200
_SHOWN = 20  # values of a closed role in an error
_MOST_TEXTS = 5  # values of a text role, by default
# Keys that say where a value stands or what set it is from; a text role has neither.
_NOT_OF_TEXT = ("values", "values_from", "separator", "catalogue")
_GUARD_NOT_OF_TEXT = ("repair", "snap", "fuzzy", "aliases", "units")
_GUARD_OF_TEXT = ("relevance_max", "keep")


def _catalogue_field(value: str) -> str:
    if not re.fullmatch(r"brand|category(\.root|\.leaf)?|attributes\.\S+", value):
        raise ValueError("expected one of: brand, category, category.root, category.leaf, attributes.NAME")
    return value


CatalogueField = Annotated[str, AfterValidator(_catalogue_field)]


class Guard(Strict):
    """Guardrails for a teacher's labels of a role; each similarity is a percentage.

    `repair` replaces a value by the words of the query that differ from it in case, blanks or small edits, down to this
    edit similarity (100 repairs case and blanks only, 0 nothing). `snap` replaces it by the nearest value of a closed
    set from this similarity up. `fuzzy` is the similarity that a grounded value must have to one of the catalogue's;
    `aliases` are other names of its values. `must_match` rejects values that the role's `pattern` does not match in
    full. `units` gives for each unit the minimum and maximum of a size. `relevance` is the minimum cosine similarity of
    query and value, for values that need not be words of the query. `max_words` limits the length of a value.

    Of text roles only: `relevance_max` is the maximum of that similarity, and `keep` names open roles whose values a
    text takes over from the query or leaves out, but never exchanges for others.
    """

    repair: Annotated[float, Field(ge=0.0, le=100.0)] = 85.0
    snap: Annotated[float, Field(ge=50.0, le=100.0)] = 90.0
    fuzzy: Annotated[float, Field(ge=50.0, le=100.0)] = 80.0
    aliases: dict[str, str] = Field(default_factory=dict)
    must_match: bool = False
    units: dict[str, tuple[float, float]] = Field(default_factory=dict)
    relevance: Annotated[float, Field(ge=-1.0, le=1.0)] | None = None
    max_words: Positive | None = None
    # Not dumped as long as they are the default: what was checked before there were these keys stands.
    relevance_max: Annotated[
        Annotated[float, Field(ge=-1.0, le=1.0)] | None, Field(exclude_if=lambda value: value is None)
    ] = None
    keep: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()


class ValuesFrom(Strict):
    """Where the values of a closed role stand: in a file, or in a field of the catalogue.

    `file` is a text with a value a line, or a table with a value a row in `column`; `task.value_sources` reads both.
    """

    file: Path | None = None
    column: str | None = None
    field: CatalogueField | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.field is None):
            raise ValueError("name either `file`, which holds the values, or `field`, a field of the catalogue")
        if self.column is not None and self.file is None:
            raise ValueError("`column` is of a `file`; the values of the catalogue are those of `field`")
        return self


class Role(Strict):
    """One named thing to extract.

    An open role takes words of the query (named entity recognition, slot filling); a closed role takes one of `values`
    (query classification); a text role takes other words for the query, at most `most` texts (query rewriting: a role
    for each type, such as synonym or broader). `catalogue` names the catalogue field that holds values of this role:
    `brand`, `category.root`, `category.leaf`, `category` or `attributes.NAME`. `grounded` rejects a label whose value
    that field never holds, and a text whose words no item of the catalogue has all of. With `separator` the values of a
    closed role are paths of a taxonomy (`Food > Dairy > Milk`), and a label may be any node of it; a node that is less
    probable than `min_confidence` is answered by one above it; a text that is less probable is not answered.
    `values_from` names where the values stand; when a task file is loaded they become `values`, so only a file has it.
    `requires` names roles of which the query must have at least one, else this role is dropped; a query
    cannot have this role together with one that it `excludes`.
    """

    name: Annotated[str, Field(min_length=1, max_length=80)]
    kind: Literal["open", "closed", "text"] = "open"
    description: str = ""
    values: tuple[str, ...] = ()
    # The next four are not dumped as long as they are the default: what was made before there were these keys stands.
    values_from: Annotated[ValuesFrom | None, Field(exclude_if=lambda value: value is None)] = None
    separator: Annotated[
        Annotated[str, Field(min_length=1)] | None, Field(exclude_if=lambda value: value is None)
    ] = None
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0, exclude_if=lambda value: value == 0.0)] = 0.0
    most: Annotated[Positive | None, Field(exclude_if=lambda value: value is None)] = None
    multiple: bool = True
    catalogue: CatalogueField | None = None
    grounded: bool = False
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    pattern: str | None = None
    guard: Guard = Guard()

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_text()
        if self.kind == "closed" and not self.values:
            raise ValueError("a closed role needs `values`, the set of its values")
        if self.kind == "open" and self.values:
            raise ValueError("an open role takes words of the query; give `values` only with `kind: closed`")
        if len(set(self.values)) != len(self.values):
            raise ValueError("`values` holds the same value twice")
        if self.values_from is not None:
            raise ValueError("`values_from` is resolved by `task.load.load_task`; a task as such has `values`")
        self._check_tree()
        if self.grounded and self.catalogue is None and self.kind != "text":
            raise ValueError("`grounded: true` needs `catalogue`, the field to ground in")
        if self.guard.aliases and not self.grounded:
            raise ValueError("`guard.aliases` needs `grounded: true`, because they are other names of catalogue values")
        if self.guard.must_match and self.pattern is None:
            raise ValueError("`guard.must_match: true` needs `pattern`, the expression to match")
        for unit, (low, high) in self.guard.units.items():
            if not low <= high:
                raise ValueError(f"guard.units.{unit}: the minimum, {low:g}, is above the maximum, {high:g}")
        return self

    def _check_text(self) -> None:
        """Check the keys that only a text role has, and those that it cannot have."""
        if self.kind != "text":
            if self.most is not None:
                raise ValueError("`most` is the number of texts of `kind: text`; other kinds have `multiple`")
            wrong = _set_keys(self.guard, _GUARD_OF_TEXT)
            if wrong:
                raise ValueError(f"`guard.{wrong[0]}` is for `kind: text`, whose values are other words for the query")
            return
        if wrong := _set_keys(self, _NOT_OF_TEXT):
            raise ValueError(f"`{wrong[0]}` is not for `kind: text`, whose values are free text; leave it out")
        if wrong := _set_keys(self.guard, _GUARD_NOT_OF_TEXT):
            raise ValueError(
                f"`guard.{wrong[0]}` is not for `kind: text`, whose values are free text; it can have max_words, "
                "must_match, relevance, relevance_max and keep"
            )
        if not self.multiple and (self.most or 1) > 1:
            raise ValueError(f"`multiple: false` is one text, and `most` is {self.most}; leave out one of the two")
        low, high = self.guard.relevance, self.guard.relevance_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"guard.relevance, {low:g}, is above guard.relevance_max, {high:g}")

    def _check_tree(self) -> None:
        if self.separator is None:
            if self.min_confidence and self.kind != "text":
                raise ValueError("`min_confidence` needs `separator`: only a value of a taxonomy has a node above it")
            return
        if self.kind != "closed":
            raise ValueError("`separator` is for `kind: closed`, whose values are paths of a taxonomy")
        problem = next((p for v in self.values if (p := path_problem(v, self.separator))), None)
        if problem is not None:
            raise ValueError(problem)
        if self.multiple:
            raise ValueError("several values of a taxonomy are not supported yet; set `multiple: false`")

    @cached_property
    def allowed(self) -> frozenset[str]:
        """What a label of a closed role may be: a value or, in a taxonomy, also a node above one."""
        return nodes(self.values, self.separator)

    @property
    def has_tree(self) -> bool:
        """Whether its values are answered by a path in a tree."""
        return is_tree(self.values, self.separator)

    @property
    def most_texts(self) -> int:
        """The most values of a text role for one query."""
        return (self.most or _MOST_TEXTS) if self.multiple else 1

    @property
    def shortlisted(self) -> bool:
        """Whether a prompt shows candidates for the query instead of all values, which are too many."""
        return len(self.values) > (MOST_SYMBOLS if self.separator is None else MOST_LISTED)

    def expected(self, text: str) -> str:
        """The values of a closed role for an error: all of a few, else those that are most like the text."""
        if len(self.values) <= _SHOWN:
            return f"one of: {', '.join(self.values)}"
        from rapidfuzz import fuzz, process  # a service reads tasks too, and does without it

        near = [v for v, *_ in process.extract(text, sorted(self.allowed), scorer=fuzz.WRatio, limit=3)]
        return f"one of {len(self.allowed):,} values, such as {', '.join(map(repr, near))}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; `allowed` is of the role that it was asked of, so the copy makes its own."""
        out = super().model_copy(update=update, deep=deep)
        out.__dict__.pop("allowed", None)
        return out


def _set_keys(settings: Strict, names: Sequence[str]) -> list[str]:
    """Those of the keys that do not have their default; a stored task has all keys, so being there tells nothing."""
    fields = type(settings).model_fields
    return [n for n in names if getattr(settings, n) != fields[n].get_default(call_default_factory=True)]
