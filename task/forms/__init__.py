"""The answer forms: how a student expresses a labelling, read from a forward pass or generated.

A new form is a module here that implements `AnswerForm`, a line in `FORMS`, and its name in the type of `student.form`
in `task/settings.py`. Everything else calls the form's methods or depends on its `output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from task.forms.json_text import JsonText
from task.forms.protocol import AnswerForm, Decoded, Output
from task.forms.read import Read
from task.forms.write import Write

__all__ = ["FORMS", "AnswerForm", "Decoded", "Output", "is_token_classifier"]

FORMS: Final[Mapping[str, AnswerForm]] = {"read": Read(), "write": Write(), "json": JsonText()}


def is_token_classifier(runs_as: str) -> bool:
    """Whether an engine that runs a model in this way (a form's name, or `prompt_logprobs`) is a token classifier."""
    return runs_as in FORMS and FORMS[runs_as].token_classifier
