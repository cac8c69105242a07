"""The files in deploy/ say what they mean: linted, and read by the programs that they are for."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serving.ray_app import Cluster
from tests.documented import Command
from tests.test_docs_commands import problem

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = "1.32"
CONTAINERS = ("Containerfile", "Containerfile.cpu")


def serve_configs() -> list[Any]:
    under_kubernetes = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]["serveConfigV2"]
    return [yaml.safe_load((DEPLOY / "ray-serve.yaml").read_text()), yaml.safe_load(under_kubernetes)]


def pod_templates() -> list[Any]:
    cluster = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"]["template"], *(g["template"] for g in cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_container_file_is_linted(name: str) -> None:
    beside = Path(sys.executable).parent / "hadolint"
    lint = str(beside) if beside.exists() else shutil.which("hadolint")
    assert lint is not None
    found = subprocess.run([lint, str(DEPLOY / name)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_container_has_every_package(name: str) -> None:
    text = (DEPLOY / name).read_text()
    packages = sorted(p.parent.name for p in DEPLOY.parent.glob("*/__init__.py"))
    for package in set(packages) - {"benchmarks", "tests"}:
        assert f"COPY {package} {package}" in text, package


@pytest.mark.parametrize("config", serve_configs())
def test_ray_serve_takes_the_configuration_and_so_do_we(config: Any) -> None:
    found = ServeDeploySchema.model_validate(config)
    (application,) = found.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    Cluster.model_validate(application.args)


@pytest.mark.parametrize("template", pod_templates())
def test_kubernetes_takes_the_pods(template: Any) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "limbeck"}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_rounds_are_a_job_that_kubernetes_takes_and_a_command_that_we_take() -> None:
    job = yaml.safe_load((DEPLOY / "rounds-cronjob.yaml").read_text())
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    command = Command("rounds-cronjob.yaml", " ".join([*container["command"], *container["args"]]), mention=False)
    assert problem(command) is None


def test_what_kubernetes_does_not_take_is_noticed() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"nam": "ray"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
