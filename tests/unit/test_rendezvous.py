"""The command ``vggdist rendezvous``, without SLURM."""

from __future__ import annotations

import subprocess
import sys

from tests.launching import DEADLINE

# SIGUSR1 arrives while the command is being started, and ends it: it is a program that handles no signal.
SIGNAL_DURING_THE_START = """
import os, signal, subprocess, sys
from vggdist import rendezvous

class Interrupted(subprocess.Popen):
    def __init__(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGUSR1)
        super().__init__(*arguments, **options)

subprocess.Popen = Interrupted
sys.exit(rendezvous._serve([sys.executable, "-c", "import time; time.sleep(100)"], "localhost:1"))
"""


def test_a_signal_while_the_command_is_started_reaches_it() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNAL_DURING_THE_START], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 138, done.stderr  # the command's code; the rendezvous itself would end with -10
