"""The requests of one query, rendered from the task's Jinja template.

Six purposes. `label` asks for the labels. `samples` asks the same at a higher temperature: labels that are in all
samples are more likely right. `bare` asks without context: it shows which labels depend on the context. `verify` shows
the labels and asks yes or no for each. `repair` sends an unparseable answer back, without context. `review` shows the
teacher its labels and the doubts about them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from llm_client.body import sent_body, token_limit
from llm_client.context import EMPTY, Context
from llm_client.label_schema import ResponseFormat, labels_response_format, verdicts_response_format
from llm_client.request import Request
from task.errors import InputError
from task.settings import OpenAI
from task.spec import Task

VERIFY = (
    "You check labels of search queries. For each numbered label say whether it is right: its role fits, and its "
    "text is exactly the words of the query that belong to it.\n\nRoles:\n{roles}\n\n"
    'Answer with JSON: {{"right": [true or false for each label, in order]}}.'
)
VERIFY_TEXT = " (other words for the query: right if a search for them finds what the query is about)"
VERIFY_QUERY = "Query: {query}\nLabels:\n{labels}"
REPAIR = (
    "The text that follows should be JSON of this schema, and is not. Answer with the same content as valid JSON and "
    "nothing else.\n\nSchema: {schema}"
)
REVIEW = (
    "Models that learned from many labels like these, but not from this one, doubt some of it:\n{doubts}\n"
    "They may be wrong and so may you. Look again, and answer with all labels of the query, in the same form."
)
_VERIFY_TOKENS = 8  # per label: a word, a comma and a blank, with room to spare


def task_fields(template: Path) -> set[str]:
    """The fields of the task that a template reads, as `task.description`; none of one that cannot be read."""
    try:
        tree = jinja2.Environment().parse(template.read_text(encoding="utf-8"))  # noqa: S701 (nothing is rendered)
    except (OSError, UnicodeDecodeError, jinja2.TemplateError):
        return set()
    found = tree.find_all(jinja2.nodes.Getattr)
    return {n.attr for n in found if isinstance(n.node, jinja2.nodes.Name) and n.node.name == "task"}


def _check_one_file(tree: jinja2.nodes.Template, path: Path) -> None:
    """Refuse a template that reads others: only its own text is compared to see whether a prompt has changed."""
    kinds = (jinja2.nodes.Include, jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Extends)
    other = next(iter(tree.find_all(kinds)), None)
    if other is not None:
        raise InputError(
            "the template reads another file", file=path, line=other.lineno, found=type(other).__name__.lower(),
            expected="a prompt in one file", fix="Copy the other file's text into this one",
        )


class Prompter:
    """Builds the requests of a task.

    Args:
        settings: Of the endpoint, if not the task's own.

    Raises:
        InputError: The template cannot be read or rendered.
    """

    def __init__(self, task: Task, settings: OpenAI | None = None) -> None:
        self._task = task
        self.settings: OpenAI = settings or task.teacher.openai
        path = Path(self.settings.prompt or "")
        try:
            self.source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot read the prompt: {error}", file=path, field="teacher.openai.prompt",
                fix="Start from configs/prompts/label.j2",
            ) from error
        environment = jinja2.Environment(  # noqa: S701 (a prompt is plain text, not HTML)
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        try:
            _check_one_file(environment.parse(self.source), path)
            self._template = environment.from_string(self.source)
            self._render(EMPTY)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"not a Jinja template: {error.message}", file=path, line=error.lineno) from error
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"the template fails: {error}", file=path, field="teacher.openai.prompt",
                expected="names: task, examples, bought, converted, items, similar, neighbours",
            ) from error
        self._labels_format = labels_response_format(task)
        self._roles = "\n".join(
            f"- {r.name}: {r.description or 'see its name'}{VERIFY_TEXT if r.kind == 'text' else ''}"
            for r in task.roles
        )

    def first(self, query: str, context: Context) -> list[Request]:
        """The requests that depend on no reply: `label`, and `samples` and `bare` if the task wants them."""
        s = self.settings
        out = [self._labels("label", query, context, s.temperature)]
        if s.samples:
            out.append(self._labels("samples", query, context, s.sample_temperature, n=s.samples))
        if s.compare_bare:
            out.append(self._labels("bare", query, EMPTY, s.temperature))
        return out

    def verify(self, query: str, rows: Sequence[Mapping[str, Any]]) -> Request:
        """Asks whether each label is right."""
        labels = "\n".join(f"{i}. {r.get('role')}: {r.get('text')}" for i, r in enumerate(rows, 1))
        messages = [
            {"role": "system", "content": VERIFY.format(roles=self._roles)},
            {"role": "user", "content": VERIFY_QUERY.format(query=query, labels=labels)},
        ]
        return self._request(
            query, "verify", messages, temperature=0.0, max_tokens=32 + _VERIFY_TOKENS * len(rows),
            answer=verdicts_response_format(), **self._logprobs(),
        )

    def review(self, first: str, *, answer: str, doubts: Sequence[str]) -> Request:
        """The conversation so far, followed by the doubts about the answer.

        Args:
            first: Body of the `label` request.
            answer: The reply to it.
        """
        asked = json.loads(first)["messages"]
        messages = [
            *asked, {"role": "assistant", "content": answer},
            {"role": "user", "content": REVIEW.format(doubts="\n".join(doubts))},
        ]
        return self._request(asked[-1]["content"], "review", messages, temperature=self.settings.temperature)

    def repair(self, query: str, *, answer: str) -> Request:
        """An unparseable answer, sent back without the context, which would be paid for twice."""
        schema = json.dumps(self._labels_format.sent["json_schema"]["schema"], ensure_ascii=False)
        messages = [
            {"role": "system", "content": REPAIR.format(schema=schema)},
            {"role": "user", "content": answer},
        ]
        return self._request(query, "repair", messages, temperature=0.0)

    def _labels(self, purpose: str, query: str, context: Context, temperature: float, n: int = 1) -> Request:
        messages = [
            {"role": "system", "content": self._render(context)}, {"role": "user", "content": query},
        ]
        more: dict[str, Any] = {"n": n} if n > 1 else {}
        more |= self._logprobs() if purpose == "label" else {}
        return self._request(query, purpose, messages, temperature=temperature, evidence=context, **more)

    def _logprobs(self) -> dict[str, Any]:
        return {"logprobs": True} if self.settings.logprobs else {}

    def _render(self, context: Context) -> str:
        examples = context["examples"] or [e.model_dump() for e in self._task.examples]
        return self._template.render(task=self._task, **{**context, "examples": examples})

    def _request(
        self, query: str, purpose: str, messages: list[dict[str, str]], *, temperature: float,
        max_tokens: int | None = None, answer: ResponseFormat | None = None, evidence: Context | None = None,
        **more: Any,
    ) -> Request:
        """A request with the settings of the endpoint.

        Args:
            max_tokens: Of the answer, where `extra_body` sets no limit; by default that of the settings.
            answer: Its format, by default that of labels.
            more: Further fields of the body.
        """
        s = self.settings
        answer, limit = answer or self._labels_format, max_tokens or s.max_tokens
        own = {"model": s.model, "messages": messages, "temperature": temperature, "max_tokens": limit}
        body, keyed = sent_body(own, s.extra_body), {**own, **s.extra_body}
        if s.structured_output:
            body["response_format"], keyed["response_format"] = answer.sent, answer.keyed
        return Request.make(
            query=query, purpose=purpose, base_url=s.base_url, body=body | more, keyed=keyed | more,
            max_tokens=token_limit(body) or limit, evidence=evidence,
        )
