"""What a person reads whose Horovod has no MXNet binding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_horovod_without_mxnet_is_told_with_the_commands_that_mend_it(tmp_path: Path) -> None:
    binding = tmp_path / "horovod"
    binding.mkdir()
    (binding / "__init__.py").write_text("")
    (binding / "mxnet.py").write_text("raise ImportError('Extension horovod.mxnet has not been built')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}"}
    finished = subprocess.run(
        [sys.executable, "-m", "vggdist.train"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 1
    assert "HOROVOD_WITH_MXNET=1" in finished.stderr and "Traceback" not in finished.stderr
    assert json.loads((tmp_path / "runs/quickstart/result.json").read_text())["exit_code"] == 1
