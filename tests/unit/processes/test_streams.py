"""A process ends with its own exit code, whatever happens to its standard output and error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import DEADLINE

PROGRAM = """
import os, sys
from vggdist.processes import streams
streams.protect()
for number in range(2000):
    print(f"line {number}", flush=True)
    print(f"error {number}", file=sys.stderr)
streams.write_error("written")
opened = os.open("file", os.O_WRONLY | os.O_CREAT)
assert opened > 2, opened
os.write(opened, b"done")
sys.exit(75)
"""


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which ``$PROGRAM`` is the program; it ends with the program's exit code."""
    (folder / "program.py").write_text(PROGRAM)
    variables = {**os.environ, "PROGRAM": f"{sys.executable} program.py", **environment}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=variables, capture_output=True, timeout=DEADLINE, check=False
    )


@pytest.mark.parametrize(
    "redirection",
    [
        "$PROGRAM | head -1; exit ${PIPESTATUS[0]}",
        "$PROGRAM 2>&1 | head -1; exit ${PIPESTATUS[0]}",
        "$PROGRAM >/dev/full",
        "$PROGRAM >/dev/full 2>&1",
        "$PROGRAM >&-",
        "$PROGRAM 2>&-",
        "$PROGRAM <&- >&- 2>&-",
        "$PROGRAM </dev/null",
    ],
)
def test_a_process_ends_with_its_own_exit_code(redirection: str, tmp_path: Path) -> None:
    finished = shell(redirection, tmp_path)
    assert finished.returncode == 75, finished.stderr
    assert (tmp_path / "file").read_bytes() == b"done"


def test_all_that_is_printed_arrives(tmp_path: Path) -> None:
    finished = shell("$PROGRAM", tmp_path)
    assert finished.stdout.decode().splitlines() == [f"line {number}" for number in range(2000)]
    assert finished.stderr.decode().splitlines() == [*(f"error {number}" for number in range(2000)), "written"]


@pytest.mark.parametrize("setting", ["", "utf-8:strict", "latin-1", "ascii:strict"])
def test_all_that_is_printed_is_utf8(setting: str, tmp_path: Path) -> None:
    print_name = "import sys; from vggdist.processes import streams; streams.protect(); name = 'Müller caf\\udce9'\n"
    print_name += "print(name); print(name, file=sys.stderr); streams.write_error(name)"
    variables = {"PYTHONIOENCODING": setting, "LC_ALL": "C"}
    found = subprocess.run(
        [sys.executable, "-c", print_name], env={**os.environ, **variables}, capture_output=True, timeout=DEADLINE, check=True
    )
    expected = "Müller caf\\udce9\n"
    assert found.stdout.decode("utf-8") == expected and found.stderr.decode("utf-8") == 2 * expected


def test_a_reader_that_does_not_read_holds_up_only_once(tmp_path: Path) -> None:
    """A reader such as ``less`` without input, or a launcher whose reading thread has ended."""
    reading, writing = os.pipe()
    program = (
        "from vggdist.processes import streams; streams._TIMEOUT = 0.2; streams._error._timeout = 0.2; streams.protect()\n"
    )
    program += "for number in range(20_000): print(f'line {number}')"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=writing)
    os.close(writing)
    try:
        assert process.wait(timeout=DEADLINE) == 0  # 20,000 waits would take longer
        assert os.read(reading, 100).startswith(b"line 0\nline 1\n")
    finally:
        process.kill()
        os.close(reading)


_RESULTS = """
import sys
from vggdist.processes import streams
streams._TIMEOUT = 0.05  # of the output that may be dropped
streams.protect()
output = streams.results()
try:
    for number in range(2000):
        output.write(f"{number:0100}\\n")
        output.flush()
except OSError as error:
    sys.exit(error.errno)
"""


def test_results_wait_for_a_slow_reader_and_a_full_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results.py").write_text(_RESULTS)
    command = f"{sys.executable} results.py"
    slow = shell(f"{command} | (sleep 0.5; cat); exit ${{PIPESTATUS[0]}}", tmp_path)
    assert slow.returncode == 0 and slow.stdout.decode().splitlines() == [f"{number:0100}" for number in range(2000)]
    for redirection, code in ((">/dev/full", errno.ENOSPC), ("| head -1", errno.EPIPE)):
        assert shell(f"{command} {redirection}; exit ${{PIPESTATUS[0]}}", tmp_path).returncode == code
