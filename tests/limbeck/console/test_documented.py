"""The commands of docs/console.md, word for word."""

from __future__ import annotations

import io
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from limbeck.console.accounts import Accounts
from tests.documented import documented
from tests.limbeck.console.consoles import PASSWORD, add_user
from tests.limbeck.test_cli import in_process


def certificate(folder: Path) -> None:
    """`chain.pem` and `key.pem`, of this machine alone."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number()).not_valid_before(
        now - datetime.timedelta(hours=1)
    ).not_valid_after(now + datetime.timedelta(hours=1)).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
    ).sign(key, hashes.SHA256())
    (folder / "chain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))


def test_users_are_added_listed_and_removed_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert in_process(*documented("limbeck console-user ada --role look --role label")).returncode == 0
    assert in_process(*documented("limbeck console-user")).stdout == "ada\tlabel, look\n"
    accounts = Accounts(tmp_path / "runs" / ".console")
    assert accounts.is_right("ada", PASSWORD)
    assert in_process(*documented("limbeck console-user ada --remove")).returncode == 0
    assert accounts.names() == []
    accounts.close()


def test_behind_a_proxy_it_asks_for_users_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    done = in_process(*documented("limbeck console --behind-proxy"))
    assert (done.returncode, "off loopback the console needs users" in done.stderr) == (2, True)


@pytest.mark.slow
def test_off_loopback_it_answers_through_tls_under_its_own_name_only(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    add_user(tmp_path / "runs", "ada", "look")
    certificate(tmp_path)
    words = documented(
        "limbeck console runs --host 0.0.0.0 --name labels.example.com --tls-cert chain.pem --tls-key key.pem"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck", *words, "--port", "0"], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("console: "))
        found = re.fullmatch(r"console: https://0\.0\.0\.0:(\d+)\n", said)
        assert found
        trusted = ssl.create_default_context(cafile=str(tmp_path / "chain.pem"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        url = f"https://localhost:{found[1]}/runs"
        with opener.open(urllib.request.Request(url, headers={"Host": "labels.example.com"}), timeout=20) as response:
            assert response.url.endswith("/sign-in?next=%2Fruns")
            assert response.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener.open(urllib.request.Request(url, headers={"Host": "evil.example"}), timeout=20)
        assert refused.value.code == 421
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()
