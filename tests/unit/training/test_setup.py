"""Set-up of a run on a GPU before its first step; the CPU stands in for the GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.launching import DEADLINE

_ON_A_PRETENDED_GPU = """
import sys
import mxnet as mx
from vggdist.train import main
from vggdist.config.errors import RequestError
from vggdist.training import setup

class Pretended(mx.Context):
    device_type = "gpu"

def reserve_memory(forward, shape, device):
    raise RequestError(f"no memory for {shape} on {device.device_type}")

setup.choose_device = lambda wanted, local_rank: Pretended("cpu", 0)
setup.reserve_memory = reserve_memory
sys.exit(main(["--evaluation.batch_size", "50", "--evaluation.crops", "1"]))
"""


def test_an_evaluation_that_does_not_fit_ends_a_run_on_a_gpu_before_its_first_step(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ON_A_PRETENDED_GPU]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "vggdist: no memory for (50, 8, 8, 1) on gpu" in done.stderr and "step " not in done.stdout
