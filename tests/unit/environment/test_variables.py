"""The environment variables suit the rank, and the user's own values are kept."""

from __future__ import annotations

import mmap
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.config.schema import Config
from vggdist.environment import gpus, variables
from vggdist.environment.cores import Cores
from vggdist.environment.presets import NAMES, PRESETS, RECORDED, RankContext
from vggdist.launcher.topology import Topology


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores, all of which this process may use, and no GPU."""
    monkeypatch.setattr(variables, "find_cores", lambda environment: Cores(16, 16))
    monkeypatch.setattr(variables, "bind", lambda *arguments: None)
    monkeypatch.setattr(gpus, "usable", lambda: False)


def config_of(*flags: str) -> Config:
    return load("train", ["--data.name", "digits", *flags])


def four_ranks(local_size: int = 4) -> dict[str, str]:
    return {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": str(local_size)}


def test_ranks_on_different_hosts_do_not_share_cores() -> None:
    environment = four_ranks(local_size=1)
    assert variables.apply(environment=environment).values["OMP_NUM_THREADS"] == "16"


@pytest.mark.parametrize("preset", PRESETS)
def test_everything_of_the_preset_is_set_and_reported_and_nothing_else(preset: str) -> None:
    environment = four_ranks()
    settings = variables.apply(config_of("--world.preset", preset), environment)
    values = PRESETS[preset](RankContext(Topology(1, 4, 1, 4), 4))
    assert settings.preset == preset and environment == four_ranks() | values
    assert settings.values == values | ({"NVIDIA_TF32_OVERRIDE": "unset"} if preset == "gpu" else {})


@pytest.mark.parametrize("preset", PRESETS)
def test_the_user_s_value_wins_and_is_reported(preset: str) -> None:
    names = (*NAMES, *RECORDED)
    environment = four_ranks() | dict.fromkeys(names, "17")
    assert variables.apply(config_of("--world.preset", preset), environment).values == dict.fromkeys(names, "17")
    assert environment == four_ranks() | dict.fromkeys(names, "17")


@pytest.mark.parametrize(
    ("arguments", "usable", "preset"),
    [
        ([], False, "cpu"),
        ([], True, "gpu"),
        (["--run.device", "gpu"], True, "gpu"),
        (["--run.device", "cpu"], True, "cpu"),
        (["--world.preset", "cpu"], True, "cpu"),
        (["--world.preset", "gpu", "--run.device", "cpu"], False, "gpu"),
    ],
)
def test_where_there_is_a_gpu_to_run_on_the_settings_are_for_it(
    arguments: list[str], usable: bool, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "usable", lambda: usable)
    assert variables.apply(config_of(*arguments), {}).preset == preset


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_NUM_THREADS", "2,1"),
        ("OMP_NUM_THREADS", "1.5"),
        ("OMP_NUM_THREADS", "99999999999"),
        ("OMP_NUM_THREADS", "0"),
        ("OMP_NUM_THREADS", ""),
        ("HOROVOD_CYCLE_TIME", "fast"),
        ("MXNET_GPU_COPY_NTHREADS", "1 2"),
        ("HOROVOD_RANK", "one"),
    ],
)
def test_a_variable_that_would_end_the_process_in_a_library_is_named(name: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"environment variable {name} is"):
        variables.apply(environment=four_ranks() | {name: value})


@pytest.mark.parametrize(("deterministic", "autotune"), [("true", "0"), ("false", "1"), ("no", "1")])
def test_cudnn_s_algorithms_are_not_timed_where_a_run_must_repeat(deterministic: str, autotune: str) -> None:
    values = variables.apply(config_of("--world.preset", "gpu", "--run.deterministic", deterministic), {}).values
    assert values["MXNET_CUDNN_AUTOTUNE_DEFAULT"] == autotune
    assert ("MXNET_ENFORCE_DETERMINISM" in values) == (autotune == "0")


@pytest.mark.parametrize(
    ("arguments", "bound"),
    [([], True), (["--world.bind", "false"], False), (["--world.preset", "none"], False), (["--world.preset", "gpu"], False)],
)
def test_ranks_are_bound_with_the_preset_cpu_unless_that_is_declined(
    arguments: list[str], bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[object] = []
    monkeypatch.setattr(variables, "bind", lambda cores, topology, environment: places.append((cores, topology)))
    variables.apply(config_of(*arguments), four_ranks())
    assert places == [(Cores(16, 16), Topology(1, 4, 1, 4))] * bound


@pytest.mark.parametrize(
    ("arguments", "bound"),
    [
        (["--world.preset", "gpu"], ["0000:b1:00.0"]),
        (["--world.preset", "gpu", "--world.bind", "false"], []),
        (["--world.preset", "cpu"], []),
    ],
)
def test_ranks_are_bound_near_the_gpu_that_they_take(
    arguments: list[str], bound: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local rank 1 of four; two GPUs are visible."""
    places: list[str] = []
    monkeypatch.setattr(gpus, "addresses", lambda: ["0000:3b:00.0", "0000:b1:00.0"])
    monkeypatch.setattr(variables, "bind_near", lambda gpu, cores, environment: places.append(gpu))
    variables.apply(config_of(*arguments), four_ranks())
    assert places == bound


@pytest.mark.parametrize(("size", "mib"), [(1, 1), (2, 2), (64, 64), (500, 128)])
def test_the_fusion_buffer_grows_with_the_ranks(size: int, mib: int) -> None:
    environment = four_ranks() | {"HOROVOD_SIZE": str(size)}
    assert variables.apply(environment=environment).values["HOROVOD_FUSION_THRESHOLD"] == str(mib * 2**20)


def test_the_fusion_buffer_is_left_where_ranks_that_start_later_would_choose_another() -> None:
    assert "HOROVOD_FUSION_THRESHOLD" not in variables.apply(environment=four_ranks() | {"HOROVOD_ELASTIC": "1"}).values


def test_the_cores_of_each_rank_are_reported() -> None:
    settings = variables.apply(environment=four_ranks())
    assert settings.as_json(lambda cores: [cores, "5"])["cores"] == [settings.cores, "5"]


def test_the_variables_are_set_before_mxnet_is_imported() -> None:
    program = """if True:
        import sys
        from vggdist.environment import variables
        assert not {"mxnet", "horovod"} & sys.modules.keys()
        variables.apply()
        assert "mxnet" in sys.modules
        assert not {"scipy", "sklearn", "onnx"} & sys.modules.keys()  # a third of the time of the import
        import scipy.special, sklearn, onnx
    """
    subprocess.run([sys.executable, "-c", program], check=True)


# Read by builds for CUDA alone: src/storage/storage.cc, pooled_storage_manager.h and src/operator/nn/cudnn/ of MXNet 1.9.1.
CUDA_ONLY = {
    "MXNET_GPU_MEM_POOL_TYPE",
    "MXNET_GPU_MEM_POOL_ROUND_LINEAR_CUTOFF",
    "MXNET_CUDNN_AUTOTUNE_DEFAULT",
    "MXNET_ENFORCE_DETERMINISM",
}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("MXNET_", "HOROVOD_")) and name not in CUDA_ONLY])
def test_a_library_reads_the_variable(name: str) -> None:
    package, library = ("horovod", "mxnet/mpi_lib*.so") if name.startswith("HOROVOD_") else ("mxnet", "libmxnet.so")
    found = find_spec(package)
    assert found is not None and found.origin is not None
    (path,) = Path(found.origin).parent.glob(library)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        assert content.find(f"\0{name}\0".encode()) >= 0
