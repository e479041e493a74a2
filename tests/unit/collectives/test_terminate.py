"""An uncaught C++ exception becomes a return value, and the process continues."""

from __future__ import annotations

import ctypes
import subprocess
import sys

from tests.launching import DEADLINE
from vggdist.collectives.terminate import completes

TERMINATES = """
import ctypes, os, threading
from vggdist.collectives.terminate import completes

def act():
    thread = threading.Thread(target=ctypes.CDLL("libstdc++.so.6")["_ZSt9terminatev"], daemon=True)
    thread.start()
    thread.join()

print(completes(act), flush=True)
os._exit(3)
"""


def test_an_action_that_ends_well() -> None:
    assert completes(lambda: None)


def test_an_action_that_reports_its_failure() -> None:
    def fail() -> None:
        raise ValueError("initialization failed")

    assert not completes(fail)


def test_an_uncaught_exception_in_a_thread_of_cpp_does_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", TERMINATES], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout) == (3, "False\n"), done.stderr


def test_afterwards_the_previous_handler_is_restored() -> None:
    get_terminate = ctypes.CDLL("libstdc++.so.6")["_ZSt13get_terminatev"]
    get_terminate.restype = ctypes.c_void_p
    before, during = get_terminate(), []
    assert completes(lambda: during.append(get_terminate()))
    assert get_terminate() == before and during[0] != before
