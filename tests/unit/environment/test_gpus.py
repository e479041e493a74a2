"""A GPU for which MXNet has no code is reported before it is used; other GPUs are accepted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from tests.launching import DEADLINE
from vggdist.environment import gpus

_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? MAJOR : attribute == 76 ? MINOR : -1;
    return device == 7 ? 0 : 101;
}
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA Made-up", length); return 0; }
int cuDeviceGetPCIBusId(char *address, int length, int device) { strncpy(address, "0000:3B:00.0", length); return 0; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
"""


def make_driver(folder: Path, capability: tuple[int, int], init: int = 0, version: int = 12020) -> Path:
    """Compile a ``libcuda.so.1`` for CUDA ``version`` with one device of the capability, whose cuInit returns ``init``."""
    library = folder / "libcuda.so.1"
    values = {"INIT": init, "MAJOR": capability[0], "MINOR": capability[1], "VERSION": version}
    defined = [f"-D{name}={value}" for name, value in values.items()]
    command = ["cc", "-shared", "-fPIC", *defined, "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=_DRIVER, text=True, check=True, timeout=DEADLINE)
    return library


def make_compiler(folder: Path) -> None:
    """Compile an NVRTC of CUDA 11.8."""
    text = "int nvrtcVersion(int *major, int *minor) { *major = 11; *minor = 8; return 0; }"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / "libnvrtc.so.11.2")]
    subprocess.run(command, input=text, text=True, check=True, timeout=DEADLINE)


def pretend_to_install(folder: Path, name: str) -> None:
    """Write the metadata of an installed distribution into a folder of Python's path."""
    information = folder / f"{name.replace('-', '_')}-1.9.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.9.1\n")


def test_the_driver_reports_name_and_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", str(make_driver(tmp_path, (8, 6))))
    assert gpus.describe(0) == gpus.Gpu("NVIDIA Made-up", (8, 6))
    assert gpus.describe(1) is None  # there is one device only


def test_the_driver_reports_addresses_as_linux_writes_them_and_its_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", str(make_driver(tmp_path, (8, 6))))
    assert gpus.addresses() == ["0000:3b:00.0"] and gpus.driver_cuda() == (12, 2)


def test_nvrtc_reports_its_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_COMPILER", str(tmp_path / "libnvrtc.so.11.2"))
    assert gpus.compiler_cuda() is None
    make_compiler(tmp_path)
    assert gpus.compiler_cuda() == (11, 8)


def test_a_driver_that_does_not_start_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", str(make_driver(tmp_path, (9, 0), init=100)))
    assert gpus.describe(0) is None and gpus.addresses() == [] and gpus.driver_cuda() is None


def test_a_missing_driver_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", str(tmp_path / "libcuda.so.1"))
    assert gpus.describe(0) is None


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "cuda_wheel", lambda: "mxnet-cu112 1.9.1")


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("capability", [(5, 0), (6, 1), (7, 5), (8, 0), (8, 6), (8, 9)])
def test_maxwell_to_ada_are_taken(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "describe", lambda index: gpus.Gpu("NVIDIA L4", capability))
    assert gpus.refusal(0) is None


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("capability", [(3, 7), (9, 0), (10, 0), (12, 1)])
def test_kepler_and_hopper_and_newer_are_refused(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "describe", lambda index: gpus.Gpu("NVIDIA H200", capability))
    version = "{}.{}".format(*capability)
    message = gpus.refusal(3)
    assert message is not None and message.startswith(
        f"GPU 3 (NVIDIA H200) has compute capability {version}, which mxnet-cu112 1.9.1 does not support"
    )
    for advice in ("5.0 to 8.6", "no PTX", "--run.device cpu", "5.0 to 8.9", f"an MXNet built for {version}"):
        assert advice in message


@pytest.mark.usefixtures("wheel")
def test_a_gpu_that_the_driver_does_not_report_is_left_to_mxnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "describe", lambda index: None)
    assert gpus.refusal(0) is None


def test_an_mxnet_of_one_s_own_is_trusted_with_any_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "distributions", list)
    monkeypatch.setattr(gpus, "describe", lambda index: gpus.Gpu("NVIDIA H200", (9, 0)))
    assert gpus.cuda_wheel() is None and gpus.refusal(0) is None


@pytest.mark.parametrize("name", ["mxnet-cu112", "mxnet_cu117"])
def test_an_installed_cuda_wheel_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_to_install(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert gpus.cuda_wheel() == f"{name.replace('_', '-')} 1.9.1"


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(
    ("capability", "needed", "usable"),
    [((8, 6), b"libcudart.so.11.0", True), ((9, 0), b"libcudart.so.11.0", False), ((8, 6), b"libgomp.so.1", False)],
)
def test_a_gpu_is_usable_where_mxnet_is_built_for_cuda_and_has_code_for_it(
    capability: tuple[int, int], needed: bytes, usable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "describe", lambda index: gpus.Gpu("NVIDIA L4", capability))
    (tmp_path / "__init__.py").touch()
    (tmp_path / "libmxnet.so").write_bytes(b"\x7fELF\0" + needed + b"\0libstdc++.so.6\0")
    monkeypatch.setattr(gpus, "find_spec", lambda name: spec_from_file_location(name, tmp_path / "__init__.py"))
    assert gpus.usable() == usable


def test_the_library_of_this_mxnet_shows_whether_it_was_built_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import mxnet as mx

    monkeypatch.setattr(gpus, "describe", lambda index: gpus.Gpu("NVIDIA L4", (8, 6)))
    assert gpus.usable() == mx.runtime.Features().is_enabled("CUDA")


def test_without_a_gpu_or_mxnet_none_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda name: None)
    monkeypatch.setattr(gpus, "describe", lambda index: gpus.Gpu("NVIDIA L4", (8, 6)))
    assert not gpus.usable()
    monkeypatch.setattr(gpus, "describe", lambda index: None)
    assert not gpus.usable()


def test_asking_imports_neither_mxnet_nor_horovod() -> None:
    program = "import sys, vggdist.environment.gpus; sys.exit('mxnet' in sys.modules or 'horovod' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def _run_on_a_made_up_gpu(
    folder: Path, capability: tuple[int, int], device: str, version: int = 12020, command: str = "train"
) -> subprocess.CompletedProcess[str]:
    """Train for one step with a fake CUDA wheel and a fake GPU, which MXNet counts and the driver reports."""
    make_driver(folder, capability, version=version)
    make_compiler(folder)
    pretend_to_install(folder, "mxnet-cu112")
    program = (
        f"import mxnet, sys, vggdist.{command}\n"
        "mxnet.context.num_gpus = lambda: 1\n"
        f"sys.exit(vggdist.{command}.main(['--run.device', '{device}', '--train.steps', '1']))"
    )
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[3])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE
    )


def test_a_run_that_asks_for_a_hopper_gpu_is_refused_before_anything_runs_there(tmp_path: Path) -> None:
    finished = _run_on_a_made_up_gpu(tmp_path, (9, 0), "gpu")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr, finished.stderr
    assert not (tmp_path / "runs").exists()
    assert "run.device is gpu, but GPU 0 (NVIDIA Made-up) has compute capability 9.0" in finished.stdout + finished.stderr


def test_a_run_that_takes_what_there_is_takes_the_cpu_instead_of_a_hopper_gpu_and_says_so(tmp_path: Path) -> None:
    finished = _run_on_a_made_up_gpu(tmp_path, (9, 0), "auto")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    log = (tmp_path / "runs/quickstart/log.txt").read_text()
    assert "WARNING run.device auto uses the CPU: GPU 0 (NVIDIA Made-up) has compute capability 9.0" in log
    assert json.loads((tmp_path / "runs/quickstart/result.json").read_text())["device"] == "cpu(0)"


@pytest.mark.parametrize(("command", "code"), [("train", 2), ("doctor", 1)])
def test_a_driver_that_cannot_load_compiled_code_is_reported_by_a_run_and_by_the_doctor(
    command: str, code: int, tmp_path: Path
) -> None:
    finished = _run_on_a_made_up_gpu(tmp_path, (8, 6), "gpu", version=11040, command=command)
    assert finished.returncode == code and "Traceback" not in finished.stderr, finished.stderr
    output = finished.stdout + finished.stderr
    assert "rank 0: the driver is for CUDA 11.4, and cannot load code of NVRTC 11.8" in output
    assert "install a newer driver (CUDA 11.8: 520), or set MXNET_USE_FUSION=0" in output
