"""``bench step`` in a job of its own: started under a launcher, waited for until a deadline, its result read. No MXNet."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vggdist.config.bench import BenchRequest
from vggdist.config.errors import RequestError, RunError
from vggdist.config.load import run_directory
from vggdist.processes.job import GRACE_S, Job, launcher_command
from vggdist.reporting.result import OUTCOME, read_json, read_outcome

_TOLD_LINES = 15  # of the output of a job that failed without a result
_NOTHING: Mapping[str, str] = MappingProxyType({})


def run_step(
    ranks: int,
    request: BenchRequest,
    arguments: Sequence[str],
    flags: Mapping[str, object] = _NOTHING,
    environment: Mapping[str, str] = _NOTHING,
) -> dict[str, Any]:
    """Run it with one repeat; it leaves nothing behind.

    Args:
        request: tells launcher, deadline and folder.
        arguments: of this command, which the job gets, too.
        flags: ``section.key`` -> value, instead of what ``arguments`` say.
        environment: variables instead of this process's own.

    Returns:
        What its ``bench-step.json`` tells.

    Raises:
        RequestError: it was refused.
        RunError: it failed, or was not over by ``bench.deadline``.
    """
    launcher = request.bench.launcher or ("horovodrun" if ranks > 1 else None)
    started_by = [*launcher_command(launcher), "-np", str(ranks)] if launcher else []
    run_directory(request).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="jobs-", dir=run_directory(request)))
    changed = {**flags, "bench.repeats": 1, "run.directory": directory, "run.name": "job"}
    words = [word for key, value in changed.items() for word in (f"--{key}", str(value))]
    command = [*started_by, sys.executable, "-m", "vggdist.bench", "step", *arguments, *words]
    log, left = directory / "output.txt", directory / "outcome"
    try:
        with log.open("w") as output:
            job = Job(command, output, {**os.environ, **environment, OUTCOME: str(left)})
            code = _code_of(job, request.bench.deadline)
        result, outcome = read_json(directory / "job" / "bench-step.json"), read_outcome(left)
        last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-_TOLD_LINES:])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if code == 0 and result is not None:
        return result
    code = outcome.exit_code if outcome is not None else code
    late = f"was not over after {request.bench.deadline:g} s (bench.deadline)"
    ended = late if code is None else f"ended with exit code {code}"
    kind = RequestError if code == RequestError.exit_code else RunError
    error = outcome.error if outcome is not None and outcome.error else last_lines
    raise kind(f"a job on {ranks} rank(s) {ended}: {error}\nIt was: {shlex.join(command)}")


def _code_of(job: Job, deadline: float) -> int | None:
    """The launcher's exit code, or None when it was not over in time; nothing of the job is left then."""
    try:
        return job.launcher.wait(deadline)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if job.launcher.poll() is None:
            job.launcher.terminate()  # it ends its ranks on other hosts, too
        job.end(GRACE_S)
