"""Checks the result of launch/gpu/install.sh. Needs no GPU: ``python -m vggdist.doctor`` checks GPUs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distributions
from pathlib import Path

SMOKE = ["--run.device", "cpu", "--train.steps", "3"]


def wrong_mxnets(names: list[str]) -> str | None:
    """An error message unless ``mxnet-cu112`` is the only MXNet: all MXNet packages write into the same folder."""
    found = sorted(name for name in {name.lower().replace("_", "-") for name in names} if name.startswith("mxnet"))
    return None if found == ["mxnet-cu112"] else f"expected mxnet-cu112 and no other MXNet, found {found}"


def foreign_libraries(maps: str, site: Path) -> list[str]:
    """Libraries in a process's memory with the name of one of the environment's CUDA libraries, but another path.

    Args:
        maps: the text of ``/proc/self/maps``.
        site: the environment's site-packages.
    """
    names = {_stem(library) for library in site.glob("nvidia/*/lib/lib*.so*")}
    paths = {Path(fields[5]) for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    return sorted(str(path) for path in paths if _stem(path) in names and site not in path.parents)


def _stem(library: Path) -> str:
    """``libnvrtc`` of ``libnvrtc.so.11.8.89``: the version in the name may differ."""
    return library.name.split(".so")[0]


def main() -> None:
    """Print the result; exits with a message and code 1 if a check fails."""
    site = Path(sysconfig.get_path("purelib")).resolve()
    if wrong := wrong_mxnets([distribution.metadata["Name"] or "" for distribution in distributions()]):
        _fail(wrong)
    try:
        import horovod.mxnet as hvd
        import mxnet as mx
    except (ImportError, OSError) as error:
        _fail(f"MXNet and Horovod cannot be imported: {error}")
    if missing := [name for name in ("CUDA", "CUDNN", "NCCL") if not mx.runtime.Features().is_enabled(name)]:
        _fail(f"this MXNet is built without {missing}")
    if not hvd.nccl_built():
        _fail("Horovod was built without NCCL")
    if foreign := foreign_libraries(Path("/proc/self/maps").read_text(), site):
        _fail(f"these libraries are not the environment's: {foreign}")
    if mx.nd.ones((2, 2)).sum().asscalar() != 4:
        _fail("MXNet computes wrong sums on the CPU")
    _train_on_two_ranks()
    print(f"mxnet-cu112 {mx.__version__} alone, its CUDA libraries from {site}, Horovod with NCCL, two ranks on the CPU: ok")


def _train_on_two_ranks() -> None:
    """Start ranks as a user would, so that ``horovodrun`` must also find the libraries."""
    launcher = [str(Path(sys.executable).with_name("horovodrun")), "--gloo", "-np", "2", sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        command = [*launcher, "-m", "vggdist.train", *SMOKE, "--run.directory", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if done.returncode != 0:
        _fail(f"a training of two ranks on the CPU failed:\n{done.stdout}")


def _fail(message: str) -> None:
    sys.exit(f"check.py: {message}; give launch/gpu/install.sh another folder, or see docs/install.md")


if __name__ == "__main__":
    main()
