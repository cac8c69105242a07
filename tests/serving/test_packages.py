"""A service whose engine is OpenVINO needs the packages of requirements/serve.txt and no others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from serving.client import served
from task.tokenizer import FastTokenizer
from tests.serving.bundles import HITS, made

LOCKED = Path(__file__).parents[2] / "requirements" / "serve.txt"
# Python imports it by itself when a process starts.
SITE = """
import sys

REFUSED = {refused}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(name + " is not in requirements/serve.txt", name=name)


sys.meta_path.insert(0, Refuse())
"""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def answered_by(url: str, query: str) -> str:
    request = urllib.request.Request(f"{url}/v1/label", json.dumps({"query": query}).encode())
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(json.load(response)["source"])


@pytest.mark.slow
def test_a_service_starts_and_answers_with_these_packages_alone(
    tmp_path: Path, tiny_llama: Path, tokenizer: FastTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified, released, and asked for a hit and a miss, in processes that can import nothing else."""
    bundle = made(tmp_path, tiny_llama, tokenizer, "oat", openvino=True)
    allowed = {normalised(m[1]) for m in re.finditer(r"^([\w.-]+)==", LOCKED.read_text(), re.MULTILINE)} | {"limbeck"}
    refused = sorted(
        module for module, packages in packages_distributions().items()
        if not {normalised(p) for p in packages} & allowed
    )
    assert {"torch", "vllm", "ray", "transformers"} <= set(refused)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(refused=json.dumps(refused)))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    pointer = tmp_path / "live.json"
    for command in (("verify", bundle.folder), ("release", bundle.folder, pointer, "--ungated")):
        subprocess.run([sys.executable, "-m", "limbeck", *map(str, command)], check=True, timeout=60)
    with served(pointer, state=tmp_path / "state") as url:
        assert [answered_by(url, q) for q in (HITS[0], "rice milk")] == ["cache", "student"]
