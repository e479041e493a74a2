"""The manifest's numbers and names agree with each other, with the images and with train. No cluster runs here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vggdist.config.load import load

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "launch" / "kubernetes"
JOB: dict[str, Any] = yaml.safe_load((FOLDER / "mpijob.yaml").read_text())
REPLICAS = JOB["spec"]["mpiReplicaSpecs"]


def container(kind: str) -> dict[str, Any]:
    (only,) = REPLICAS[kind]["template"]["spec"]["containers"]
    return dict(only)


def test_the_manifest_has_what_the_operator_requires() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert JOB["metadata"]["name"] and REPLICAS.keys() == {"Launcher", "Worker"} and REPLICAS["Launcher"]["replicas"] == 1
    assert all(container(kind)["name"] and container(kind)["image"] for kind in REPLICAS)


def test_there_are_as_many_ranks_as_gpus() -> None:
    arguments, slots = container("Launcher")["args"], JOB["spec"]["slotsPerWorker"]
    assert container("Worker")["resources"]["limits"]["nvidia.com/gpu"] == slots
    assert int(arguments[arguments.index("-np") + 1]) == REPLICAS["Worker"]["replicas"] * slots


@pytest.mark.parametrize("kind", ["Launcher", "Worker"])
def test_each_mount_has_its_volume(kind: str) -> None:
    volumes = {volume["name"] for volume in REPLICAS[kind]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container(kind)["volumeMounts"]} == volumes
    assert container(kind)["image"] == container("Launcher")["image"]


def test_train_takes_the_manifest_s_arguments() -> None:
    words = container("Launcher")["args"]
    assert all(isinstance(word, str) for word in words)
    flags = words[words.index("vggdist.train") + 1 :]
    load("train", [word.replace("/vggdist/", f"{PROJECT}/") for word in flags])


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_an_image_installs_the_versions_that_the_project_pins(image: str) -> None:
    recipe = (FOLDER / f"{image}.Dockerfile").read_text()
    documents = (PROJECT / "README.md").read_text() + (PROJECT / "pyproject.toml").read_text()
    pins = re.findall(r"[\w-]+==[\d.]+", recipe)
    assert all(pin in documents for pin in pins) and (pins or "RUN launch/gpu/install.sh" in recipe)
    assert "openssh-server" in recipe and "libopenmpi-dev" in recipe


def test_an_image_has_nothing_that_git_leaves_out() -> None:
    """An environment of this machine, for one, would take the place of the image's own."""
    left_out = (PROJECT / ".dockerignore").read_text().split("\n")
    for pattern in (PROJECT / ".gitignore").read_text().splitlines():
        assert pattern in left_out or f"**/{pattern}" in left_out, pattern


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_an_image_s_python_is_one_that_any_user_can_run(image: str) -> None:
    """One that uv brings lies in root's home."""
    recipe = (FOLDER / f"{image}.Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", recipe, re.MULTILINE)[-1].startswith("python:3.11-")
    assert "uv venv" not in recipe and "uv python" not in recipe
