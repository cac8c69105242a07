"""The `labels` backend: labels that were made elsewhere (`data.labels`), validated like any others."""

from __future__ import annotations

import json
from collections.abc import Mapping

from task.files import sha256_json
from task.labels import Example
from task.spec import Task
from teacher.backends.computed import ComputedBackend, Replies
from teacher.backends.job import LabellingJob

# Increase this when the same file gives other labels.
VERSION = 1


class ImportedLabels(ComputedBackend):
    """Returns the imported labels; their confidences stay as they are in the file."""

    estimates_confidence = False

    def rules(self, task: Task) -> Mapping[str, int | str]:  # noqa: ARG002 (of the interface)
        """See `Backend`."""
        return {"imported labels": VERSION}

    def keys(self, job: LabellingJob) -> dict[str, str]:
        """Query → hash of its imported labels."""
        imported = {e.query: e for e in job.sources.imported}
        return {
            q.query: sha256_json({"backend": "labels", "query": q.query, "reply": _reply(imported[q.query])})
            for q in job.queries
        }

    def replies(self, job: LabellingJob) -> Replies:
        """Looks a query up."""
        imported = {e.query: e for e in job.sources.imported}
        return lambda query: (_reply(imported[query]), {})


def _reply(example: Example) -> str:
    return json.dumps({"labels": [x.to_json() for x in example.labels]}, ensure_ascii=False)
