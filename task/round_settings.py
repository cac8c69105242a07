"""The section `rounds` of a task file: how a student is trained again on what its service captured."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from task.settings import Fraction, Positive, Strict, Student


class Rounds(Strict):
    """A round: captures are judged, some of their queries labelled, and a student is trained that may take over.

    At most `labels` queries are labelled in a round, the share `random` of them draws of requests, on which the new
    student is compared with the released one. With `start: adapter` the training begins from the adapter of the student
    that is served, with `scratch` from the base. `student` changes settings of the section of that name in rounds, such
    as `{epochs: 1.0}`. Drift is judged on the last `days` before a round. `limbeck watch` begins a round where drift
    says that it is worth its money, and `every_days` after the last one in any case, if set.
    """

    labels: Positive = 500
    random: Fraction = 0.25
    start: Literal["adapter", "scratch"] = "adapter"
    student: dict[str, Any] = Field(default={})
    days: Positive = 7
    every_days: Annotated[float, Field(gt=0.0)] | None = None

    @model_validator(mode="after")
    def _known_settings(self) -> Self:
        if "init_adapter" in self.student:
            raise ValueError("`student.init_adapter` is set by the round itself: `start` says from what it begins")
        return self

    def student_of(self, student: Student) -> Student:
        """The student's settings in a round, without the adapter that it begins from.

        Raises:
            ValueError: `student` has a setting that there is not, or a value that is not allowed.
        """
        try:
            return Student.model_validate(_merged(student.model_dump(mode="json"), self.student))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"rounds.student.{where}: {first['msg']}") from error


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged, everything else is replaced."""
    return values | {
        k: _merged(values[k], v) if isinstance(v, dict) and isinstance(values.get(k), dict) else v
        for k, v in changes.items()
    }
