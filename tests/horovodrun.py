"""``python -m tests.horovodrun``: ``horovodrun --gloo``, without the second of a core in which it imports MXNet.

horovodrun does so at each start, only to find out whether Horovod was built with Gloo. What is printed, passed on to the ranks
and returned is horovodrun's. Tests of the commands in the documentation start horovodrun itself.

``VGGDIST_TEST_GRACE_S`` is the time in seconds, 60 by default, after which horovodrun kills a rank that SIGTERM did not end.
"""

from __future__ import annotations

import os
import sys

from horovod.runner.common.util import safe_shell_exec

# Here and not below: horovodrun starts a process for each rank, which imports this module again and ends the rank.
safe_shell_exec.GRACEFUL_TERMINATION_TIME_S = float(os.environ.get("VGGDIST_TEST_GRACE_S", "60"))

if __name__ == "__main__":
    from horovod.runner import launch

    launch.gloo_built = lambda verbose=False: True
    sys.exit(launch.run_commandline())
