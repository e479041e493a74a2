"""``python -m tests.horovodrun``: ``horovodrun --gloo``, without the second of a core in which it imports MXNet.

horovodrun does so at each start, only to find out whether Horovod was built with Gloo. What is printed, passed on to the ranks
and returned is horovodrun's. Tests of the commands in the documentation start horovodrun itself.
"""

from __future__ import annotations

import sys

from horovod.runner import launch

if __name__ == "__main__":
    launch.gloo_built = lambda verbose=False: True
    sys.exit(launch.run_commandline())
