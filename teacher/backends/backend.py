"""The interface of a teacher backend, and the backend of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from task.spec import Task
from teacher.backends.job import LabellingJob, LabellingPlan
from teacher.guardrails.validator import Validator
from teacher.ledger.ledger import Ledger


class Backend(Protocol):
    """A source of labels: one value of `teacher.backend`."""

    @property
    def asks_llm(self) -> bool:
        """Whether labels come from an LLM, which is prompted and may cost money."""

    @property
    def local(self) -> bool:
        """Whether labels are made on this machine, so that nothing is paid for them."""

    @property
    def batch(self) -> bool:
        """Whether calls go through the provider's batch API: at its discount, within a day."""

    @property
    def uses_whole_log(self) -> bool:
        """Whether the labels of a query depend on the other queries of the job."""

    @property
    def estimates_confidence(self) -> bool:
        """Whether confidences are computed from signals and calibrated on gold; imported labels keep their own."""

    @property
    def answers_any_query(self) -> bool:
        """Whether it can label queries that are not in the log; imported labels are there or not."""

    def rules(self, task: Task) -> Mapping[str, int | str]:
        """Name → version or digest of each part of our code that its answers depend on, beside the settings."""

    def plan(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> LabellingPlan:
        """What `label` would do; makes no calls and writes nothing."""

    def label(self, job: LabellingJob, validator: Validator, ledger: Ledger) -> None:
        """Write a validated row into the ledger for every query of the job.

        Args:
            ledger: The file behind `job.ledger`, for backends that keep more in it than attempts and rows.
        """

    def context_kinds(self, task: Task) -> Sequence[str] | None:
        """The kinds of retrieved evidence that the task's labels are made from; None if the backend retrieves none."""

    def with_context(self, task: Task, kinds: Sequence[str]) -> Task:
        """The task with only these kinds of evidence."""


def backend_of(task: Task) -> Backend:
    """The backend that a task names. Only its own module is imported."""
    return _BACKENDS[task.teacher.backend](task)


def _catalog(_: Task) -> Backend:
    from teacher.backends.catalog.backend import CatalogBackend

    return CatalogBackend()


def _labels(_: Task) -> Backend:
    from teacher.backends.labels import ImportedLabels

    return ImportedLabels()


def _openai(task: Task) -> Backend:
    if task.teacher.workers:
        from teacher.backends.llm.ray_workers import RayWorkersBackend

        return RayWorkersBackend()
    from teacher.backends.llm.online import OpenAIBackend

    return OpenAIBackend()


def _vllm(task: Task) -> Backend:
    if task.teacher.workers:
        from teacher.backends.llm.ray_workers import RayEnginesBackend

        return RayEnginesBackend()
    from teacher.backends.llm.online import VllmBackend

    return VllmBackend()


def _batch(_: Task) -> Backend:
    from teacher.backends.llm.batch import BatchBackend

    return BatchBackend()


_BACKENDS: Mapping[str, Callable[[Task], Backend]] = {
    "catalog": _catalog, "labels": _labels, "openai": _openai, "openai-batch": _batch, "vllm": _vllm,
}
