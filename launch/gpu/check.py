"""Whether launch/gpu/install.sh made a whole installation. Needs no GPU: ``python -m vggdist.doctor`` looks at those."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distributions
from pathlib import Path

SMOKE = ["--run.device", "cpu", "--train.steps", "3"]


def wrong_mxnets(names: list[str]) -> str | None:
    """What is wrong where anything but ``mxnet-cu112`` alone is installed as MXNet: all its packages write one folder."""
    found = sorted(name for name in {name.lower().replace("_", "-") for name in names} if name.startswith("mxnet"))
    return None if found == ["mxnet-cu112"] else f"expected mxnet-cu112 and no other MXNet, found {found}"


def strangers(maps: str, site: Path) -> list[str]:
    """Libraries in a process's memory that are named like the environment's CUDA libraries and are from elsewhere.

    Args:
        maps: the text of ``/proc/self/maps``.
        site: the environment's site-packages.
    """
    names = {_stem(library) for library in site.glob("nvidia/*/lib/lib*.so*")}
    paths = {Path(fields[5]) for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    return sorted(str(path) for path in paths if _stem(path) in names and site not in path.parents)


def _stem(library: Path) -> str:
    """``libnvrtc`` of ``libnvrtc.so.11.8.89``: a system names its copies otherwise."""
    return library.name.split(".so")[0]


def main() -> None:
    """Print what was found; leaves with a message and exit code 1 where something is missing."""
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
    if foreign := strangers(Path("/proc/self/maps").read_text(), site):
        _fail(f"these libraries are not the environment's: {foreign}")
    if mx.nd.ones((2, 2)).sum().asscalar() != 4:
        _fail("MXNet computes wrong sums on the CPU")
    _train_on_two_ranks()
    print(f"mxnet-cu112 {mx.__version__} alone, its CUDA libraries from {site}, Horovod with NCCL, two ranks on the CPU: ok")


def _train_on_two_ranks() -> None:
    """As a user would start them, so that ``horovodrun`` has to find the libraries, too."""
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
