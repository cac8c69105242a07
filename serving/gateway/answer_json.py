"""An answer of the gateway in JSON, put together from parts that are JSON already."""

from __future__ import annotations

import json

from serving.routing.route import Answer, Route


def answer_json(answer: Answer, route: Route) -> bytes:
    """An answer as JSON, without its closing brace."""
    return (
        b'{"query":%s,"labels":%s,"status":"%s","fault":%s,"source":"%s","probability":%s,"task":%s,"bundle":"%s"'
    ) % (
        json.dumps(answer.query, ensure_ascii=False).encode(), answer.labels, answer.status.encode(),
        b"null" if answer.fault is None else b'"%s"' % answer.fault.encode(), answer.source.encode(),
        b"null" if answer.probability is None else b"%g" % answer.probability, route.task_json,
        route.bundle.id.encode(),
    )
