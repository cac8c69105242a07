"""What `tools/bootstrap.py` hands to the tools that it starts."""

from __future__ import annotations

import pytest

from tools.bootstrap import settings


@pytest.mark.parametrize(("given", "file"), [
    ({"PIP_CERT": "/ca.pem"}, "/ca.pem"), ({"PIP_CERT": "/ca.pem", "SSL_CERT_FILE": "/own.pem"}, "/own.pem"),
    ({"SSL_CERT_FILE": "/own.pem"}, "/own.pem"), ({"PIP_CERT": ""}, None), ({}, None),
])
def test_uv_trusts_the_certificates_that_pip_trusts(given: dict[str, str], file: str | None) -> None:
    found = settings(given)
    assert found.get("SSL_CERT_FILE") == file
    assert found.items() >= given.items()
