"""`limbeck purge` says what is wrong with its options in their own names, before it asks a service."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.supervisor.admin import Purge, _said
from tests.limbeck.test_cli import in_process
from tests.llm_client.fake_api import FakeApi

ALL = "expected --query, --label ROLE=VALUE, --older-than SECONDS or --nothing"


@pytest.mark.parametrize(("options", "said"), [
    ((), ALL), (("--query", "oat milk", "--nothing"), f"found '--query, --nothing'; {ALL}"),
    (("--label", "Solena"), "--label: not a label; found 'Solena'; expected ROLE=VALUE"),
    (("--label", "=Solena"), "expected ROLE=VALUE"), (("--label", "brand="), "expected ROLE=VALUE"),
])
def test_what_is_wrong_is_said_in_the_names_of_the_options(options: tuple[str, ...], said: str) -> None:
    done = in_process("purge", *options, "--admin", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_the_operators_port_says_what_is_wrong_without_the_validators_words() -> None:
    with pytest.raises(ValidationError) as caught:
        Purge(role="brand")
    assert _said(caught.value) == "give one of: query; role and value; older_than_s; nothing"
    with pytest.raises(ValidationError) as caught:
        Purge.model_validate({"older_than_s": -1.0})
    assert _said(caught.value).startswith("older_than_s: ")


def test_another_port_than_the_operators_is_told() -> None:
    with FakeApi() as api:
        done = in_process("status", "--admin", api.url)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert f"--admin: HTTP 404: 404: Not Found; found '{api.url}/status'" in said
    assert "the operators' port" in said
