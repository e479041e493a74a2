"""The installation for GPUs: what it would install, what it refuses, its check. A whole one takes minutes and gigabytes."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.launching import DEADLINE, Finished, execute

PROJECT = Path(__file__).parents[2]
INSTALL = str(PROJECT / "launch" / "gpu" / "install.sh")

needs_python = pytest.mark.skipif(shutil.which("python3.11") is None, reason="python3.11 is not on PATH by this name")


def make_nvcc(folder: Path, release: str) -> None:
    """An ``nvcc`` that states a release and compiles nothing."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f'#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.89"\n')
    nvcc.chmod(0o755)


def install(folder: Path, *words: str, **environment: str) -> Finished:
    return execute([INSTALL, *words], folder, DEADLINE, **environment)


@needs_python
def test_exactly_one_mxnet_would_be_installed_in_the_pinned_versions(tmp_path: Path) -> None:
    finished = install(tmp_path, "--dry-run")
    assert finished.code == 0, finished.output
    packages = dict(re.findall(r"^ \+ (\S+)==(\S+)$", finished.output, re.MULTILINE))
    assert [name for name in packages if name.startswith("mxnet")] == ["mxnet-cu112"]
    assert "horovod" not in packages  # compiled afterwards, beside MXNet
    pins = dict(re.findall(r"^(\S+)==(\S+)$", (PROJECT / "launch" / "gpu" / "requirements.txt").read_text(), re.MULTILINE))
    assert len(pins) == 10 and packages.items() >= pins.items()
    assert packages["numpy"] == "1.23.5"
    assert list(tmp_path.iterdir()) == []


@needs_python
def test_an_nvcc_of_another_cuda_is_refused_by_its_version(tmp_path: Path) -> None:
    make_nvcc(tmp_path, "12.4")
    finished = install(tmp_path, "venv", CUDA_HOME=str(tmp_path))
    assert finished.code == 2 and not (tmp_path / "venv").exists(), finished.output
    assert (
        f"there is no nvcc of CUDA 11, with which Horovod is compiled; {tmp_path}/bin/nvcc is of CUDA 12.4;" in finished.output
    )


@needs_python
def test_an_environment_with_mxnet_for_cpus_is_refused_and_left_alone(tmp_path: Path) -> None:
    make_nvcc(tmp_path, "11.8")
    other = tmp_path / "venv" / "lib" / "python3.11" / "site-packages" / "mxnet-1.9.1.dist-info"
    other.mkdir(parents=True)
    finished = install(tmp_path, "venv", CUDA_HOME=str(tmp_path))
    assert finished.code == 2 and "has mxnet for CPUs" in finished.output
    assert other.exists() and not list(other.parent.glob("nvidia*"))


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", PROJECT / "launch" / "gpu" / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("names", "right"),
    [
        (["numpy", "mxnet_cu112"], True),
        (["mxnet-cu112", "mxnet"], False),
        (["mxnet"], False),
        (["mxnet-cu112", "mxnet-cu117"], False),
        (["numpy"], False),
    ],
)
def test_the_check_takes_mxnet_cu112_alone(check: ModuleType, names: list[str], right: bool) -> None:
    assert (check.wrong_mxnets(names) is None) == right


def test_the_check_finds_a_cuda_library_from_elsewhere_in_memory(check: ModuleType, tmp_path: Path) -> None:
    for name in ("cublas/lib/libcublas.so.11", "cudnn/lib/libcudnn.so.8"):
        (tmp_path / "nvidia" / name).parent.mkdir(parents=True)
        (tmp_path / "nvidia" / name).touch()
    maps = [
        f"7f00-7f10 r-xp 00000000 08:01 11 {tmp_path}/nvidia/cudnn/lib/libcudnn.so.8",
        "7f20-7f30 r-xp 00000000 08:01 12 /usr/lib/x86_64-linux-gnu/libcublas.so.11.11.3",
        "7f40-7f50 r-xp 00000000 08:01 13 /usr/lib/x86_64-linux-gnu/libc.so.6",
        "7f60-7f70 rw-p 00000000 00:00 0",
    ]
    assert check.foreign_libraries("\n".join(maps), tmp_path) == ["/usr/lib/x86_64-linux-gnu/libcublas.so.11.11.3"]


def test_the_check_fails_in_an_environment_for_cpus(tmp_path: Path) -> None:
    finished = execute([sys.executable, str(PROJECT / "launch" / "gpu" / "check.py")], tmp_path, DEADLINE)
    assert finished.code == 1 and "expected mxnet-cu112 and no other MXNet, found ['mxnet']" in finished.output
