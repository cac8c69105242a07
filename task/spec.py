"""The task file: everything that may differ between two tasks, validated before any work starts.

One YAML holds what to extract (roles, instructions, examples, data) and how to run it (`task.settings`,
`task.serving_settings`). Unknown keys are refused; `task.load` turns a violation into an error with file, line, key,
value and the valid set. `docs/task-file.md` is the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from task.conflicts import Conflicts
from task.normalize import NORMALISERS, normaliser
from task.role import Role
from task.round_settings import Rounds
from task.serving_settings import Serving
from task.settings import Curriculum, Eval, Gates, Positive, Strict, Student, Teacher

MOST_MONTHS: Final = 24
"""The last month of a generated market."""

TEXT_FORMS: Final = ("write", "json")
"""The answer forms that can give the values of text roles."""


class LabelSpec(Strict):
    """A label of an example in the task file."""

    role: str
    text: str


class ExampleSpec(Strict):
    """A labelled example for the prompt."""

    query: str
    labels: tuple[LabelSpec, ...] = ()


class GoldFiles(Strict):
    """Gold labels: `calibration` may be used for labelling and calibration, `test` is for evaluation only.

    `annotations` names a file for each person who labelled test queries: their agreement is a reference for the F1 that
    can be expected.
    """

    calibration: str | None = None
    test: str | None = None
    annotations: tuple[str, ...] = ()


class Data(Strict):
    """Where the data is. Paths are relative to `dir`; `hub` names a `datasets` repository instead of a folder.

    `sample: market` generates a synthetic market (from `seed`) into the run folder; the paths are then its files.
    `sample_month` is the month of it: 0 is the market as it opens, and later months have moved.
    `conflicts` is for queries that `labels` holds with different labels: all their rows get the labels of the `last` or
    `first` one, are left out (`leave-out`), or are an error (`refuse`). `outliers` are queries of other domains, which
    the student learns to give no labels.
    """

    sample: Literal["market"] | None = None
    seed: int = 0
    sample_queries: Annotated[int, Field(ge=200)] = 20_000
    sample_items: Annotated[int, Field(ge=500)] = 6_000
    # Not dumped as long as it is the default, as `conflicts` below.
    sample_month: Annotated[int, Field(ge=0, le=MOST_MONTHS, exclude_if=lambda value: value == 0)] = 0
    dir: Path | None = None
    hub: str | None = None
    queries: str | None = None
    labels: str | None = None
    catalogue: str | None = None
    conversions: str | None = None
    gold: GoldFiles = GoldFiles()
    max_query_chars: Positive = 256
    # Not dumped as long as it is the default, so that stages of runs from before there was this key stay unchanged.
    conflicts: Annotated[Conflicts, Field(exclude_if=lambda value: value == "last")] = "last"
    outliers: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.sample and (self.dir or self.hub):
            raise ValueError("`sample` generates its own data: leave out `dir` and `hub`")
        if self.sample and self.outliers:
            raise ValueError("`sample` generates its own data: `outliers` needs `dir` or `hub`")
        if self.sample_month and not self.sample:
            raise ValueError("`sample_month` is a month of a generated market: it needs `sample: market`")
        if not (self.sample or self.dir or self.hub):
            raise ValueError("name a source: `dir` (a folder), `hub` (a datasets repository) or `sample: market`")
        if not (self.sample or self.queries or self.labels):
            raise ValueError("no queries: set `queries` (to be labelled) or `labels` (labelled already)")
        return self


class Task(Strict):
    """A whole task file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    description: str = ""
    instructions: str = ""
    normaliser: str = "v1"
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    examples: tuple[ExampleSpec, ...] = ()
    data: Data
    teacher: Teacher = Teacher()
    curriculum: Curriculum = Curriculum()
    student: Student = Student()
    serving: Serving = Serving()
    eval: Eval = Eval()
    gates: Gates = Gates()
    # Left out at its defaults: bundles and runs of before have no such section.
    rounds: Rounds = Field(default=Rounds(), exclude_if=lambda value: value == Rounds())

    @field_validator("normaliser")
    @classmethod
    def _known_normaliser(cls, value: str) -> str:
        if value not in NORMALISERS:
            raise ValueError(f"expected one of: {', '.join(NORMALISERS)}")
        return value

    @model_validator(mode="after")
    def _readable(self) -> Self:
        student = self.student
        if self.serving.reader == "prompt_logprobs" and (student.form, student.softmax) != ("read", "vocabulary"):
            raise ValueError(
                "`serving.reader: prompt_logprobs` scores the likeliest tokens only: set `student.form: read` and "
                "`student.softmax: vocabulary`, so that the symbols are trained to be among them"
            )
        return self

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        names = [r.name for r in self.roles]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two roles are called {twice[0]!r}; names must be unique")
        for role in self.roles:
            for verb, others in (("requires", role.requires), ("excludes", role.excludes)):
                for other in others:
                    if other not in names or other == role.name:
                        raise ValueError(f"role {role.name!r} {verb} {other!r}, which is not another role of the task")
        for number, example in enumerate(self.examples):
            for label in example.labels:
                problem = self.label_problem(example.query, label.role, label.text)
                if problem:
                    raise ValueError(f"examples.{number}: {problem}")
        self._check_texts()
        self._check_teacher()
        self.rounds.student_of(self.student)
        for name in self.curriculum.pattern_roles:
            if name not in names:
                valid = ", ".join(names)
                raise ValueError(f"curriculum.pattern_roles: {name!r} is not a role; expected some of: {valid}")
        if self.serving.weights == "adapter" and self.serving.quantization == "int8":
            raise ValueError("serving.quantization `int8` is for a merged student; leave it out with weights `adapter`")
        self._check_openvino()
        if self.serving.weights == "adapter" and (self.student.quantization != "none" or self.student.peft):
            raise ValueError("serving.weights `adapter` takes plain LoRA on a base that is not quantised; merge others")
        if self.curriculum.max_per_pattern and not self.curriculum.pattern_roles:
            raise ValueError("curriculum.max_per_pattern needs pattern_roles, the roles whose values a pattern ignores")
        return self

    def _check_texts(self) -> None:
        """Check what text roles need in the rest of the file."""
        for role in self.text_roles:
            where = f"role {role.name!r}"
            if role.grounded and not (self.data.sample or self.data.catalogue):
                raise ValueError(f"{where}: `grounded: true` needs data.catalogue, in which its texts must find items")
            for name in role.guard.keep:
                other = next((r for r in self.open_roles if r.name == name), None)
                if other is None:
                    valid = ", ".join(r.name for r in self.open_roles) or "none"
                    raise ValueError(f"{where}: guard.keep has {name!r}, not an open role; open roles: {valid}")
                if not (other.catalogue or other.pattern or other.guard.units):
                    raise ValueError(
                        f"{where}: guard.keep has {name!r}, whose values cannot be recognised in a text; give that "
                        "role `catalogue`, `pattern` or `guard.units`"
                    )
        if self.text_roles and self.student.form not in TEXT_FORMS:
            raise ValueError(
                f"student.form `{self.student.form}` cannot answer role {self.text_roles[0].name!r} of `kind: text`, "
                f"whose values are free text; set `student.form` to one of: {', '.join(TEXT_FORMS)}"
            )

        doubtful = next((r for r in self.text_roles if r.min_confidence), None)
        if doubtful is not None and self.student.form != "write":
            raise ValueError(
                f"role {doubtful.name!r}: `min_confidence` needs probabilities, which student.form "
                f"`{self.student.form}` does not give; set `student.form` to `write`, or leave it out"
            )
        if self.text_roles and self.curriculum.cross_fit is not None:
            raise ValueError(
                f"curriculum.cross_fit trains students of the form `read`, which cannot answer role "
                f"{self.text_roles[0].name!r} of `kind: text`; leave it out"
            )

    def _check_openvino(self) -> None:
        serving = self.serving
        if serving.engine != "openvino":
            return
        if self.student.form != "read" or serving.weights != "merged" or serving.reader != "classifier":
            raise ValueError(
                "serving.engine `openvino` serves the form `read` with weights `merged` and reader `classifier`; take "
                "`vllm` for others"
            )
        if serving.quantization == "fp8":
            raise ValueError("serving.engine `openvino` has no quantization `fp8`; take `int8`, or the engine `vllm`")

    def _check_teacher(self) -> None:
        """Check what the teacher's backend needs in the rest of the file."""
        if self.teacher.backend == "labels" and not self.data.labels:
            raise ValueError("teacher.backend `labels` needs data.labels, the file that holds them")
        if self.teacher.backend in {"openai", "openai-batch", "vllm"} and self.teacher.openai.prompt is None:
            raise ValueError(f"teacher.backend `{self.teacher.backend}` needs teacher.openai.prompt, a Jinja template")
        fit = self.curriculum.cross_fit
        if fit is not None and fit.action == "ask" and self.teacher.backend not in {"openai", "vllm"}:
            raise ValueError(
                "curriculum.cross_fit.action `ask` needs an LLM that can be asked again, teacher.backend `openai` or "
                f"`vllm`, not `{self.teacher.backend}`; `mask` and `drop` work with every backend"
            )
        if self.teacher.workers and self.teacher.backend not in {"openai", "vllm"}:
            backend = self.teacher.backend
            raise ValueError(f"teacher.workers is for `openai` and `vllm`; `{backend}` works in one process")
        if self.teacher.backend == "catalog":
            if not (self.data.sample or self.data.catalogue):
                raise ValueError("teacher.backend `catalog` needs data.catalogue")
            if not any(r.catalogue for r in self.roles):
                raise ValueError("teacher.backend `catalog` needs at least one role with a `catalogue` field")

    def role(self, name: str) -> Role:
        """The role of a name; `KeyError` lists the valid ones."""
        for role in self.roles:
            if role.name == name:
                return role
        raise KeyError(f"unknown role {name!r}; the task has: {', '.join(r.name for r in self.roles)}")

    @property
    def open_roles(self) -> tuple[Role, ...]:
        """Roles whose values are words of the query."""
        return tuple(r for r in self.roles if r.kind == "open")

    @property
    def closed_roles(self) -> tuple[Role, ...]:
        """Roles whose values come from a listed set."""
        return tuple(r for r in self.roles if r.kind == "closed")

    @property
    def text_roles(self) -> tuple[Role, ...]:
        """Roles whose values are free text: other words for the query."""
        return tuple(r for r in self.roles if r.kind == "text")

    def label_problem(self, query: str, role_name: str, text: str) -> str | None:
        """Why a label is not one of this task, or None; the message names value and valid set."""
        try:
            role = self.role(role_name)
        except KeyError as error:
            return str(error.args[0])
        if role.kind == "closed" and text not in role.allowed:
            return f"{text!r} is not a value of {role.name!r}; expected {role.expected(text)}"
        if role.kind != "closed" and not text.strip():
            return f"empty value of role {role.name!r}"
        if role.kind == "text":
            return self._text_problem(query, role, text)
        if role.kind == "open" and text not in query:
            return f"value {text!r} of role {role.name!r} does not occur in the query {query!r}"
        return None

    def _text_problem(self, query: str, role: Role, text: str) -> str | None:
        """Why a text cannot be a value of a text role, or None."""
        if text != text.strip() or len(text.splitlines()) > 1:
            return f"value {text!r} of role {role.name!r} has a line break, or a blank at its beginning or end"
        if len(text) > self.data.max_query_chars:
            return (
                f"value {text[:40]!r}… of role {role.name!r} has {len(text)} characters; at most "
                f"{self.data.max_query_chars} (data.max_query_chars)"
            )
        normalise = normaliser(self.normaliser)
        if normalise(text) == normalise(query):
            return f"value {text!r} of role {role.name!r} is the query itself; it must be other words for it"
        return None
