"""Runs ``bench step`` as a separate job under a launcher, with a deadline, and reads its result. Without MXNet."""

from __future__ import annotations

import contextlib
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
from vggdist.processes.signals import deferred_signals
from vggdist.reporting.result import OUTCOME, read_json, read_outcome

_LAST_LINES = 15  # shown of the output of a job that failed without a result
_NOTHING: Mapping[str, str] = MappingProxyType({})


def run_step(
    ranks: int,
    request: BenchRequest,
    arguments: Sequence[str],
    flags: Mapping[str, object] = _NOTHING,
    environment: Mapping[str, str] = _NOTHING,
) -> dict[str, Any]:
    """Run the job with one repeat; all its files are removed afterwards.

    Args:
        request: has launcher, deadline and folder.
        arguments: of this command, passed on to the job.
        flags: ``section.key`` -> value, overriding ``arguments``.
        environment: variables that override those of this process.

    Returns:
        The content of its ``bench-step.json``.

    Raises:
        RequestError: the job refused the request.
        RunError: it failed, or did not finish by ``bench.deadline``.
    """
    launcher = request.bench.launcher or ("horovodrun" if ranks > 1 else None)
    started_by = [*launcher_command(launcher), "-np", str(ranks)] if launcher else []
    run_directory(request).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="jobs-", dir=run_directory(request)))
    changed = {**flags, "bench.repeats": 1, "run.directory": directory, "run.name": "job"}
    words = [word for key, value in changed.items() for word in (f"--{key}", str(value))]
    command = [*started_by, sys.executable, "-m", "vggdist.bench", "step", *arguments, *words]
    log, outcome_path = directory / "output.txt", directory / "outcome"
    try:
        with log.open("w") as output, contextlib.ExitStack() as stack:
            with deferred_signals():
                job = Job(command, output, {**os.environ, **environment, OUTCOME: str(outcome_path)})
                stack.callback(_end, job)
            code = _code_of(job, request.bench.deadline)
        result, outcome = read_json(directory / "job" / "bench-step.json"), read_outcome(outcome_path)
        last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if code == 0 and result is not None:
        return result
    code = outcome.exit_code if outcome is not None else code
    late = f"did not finish within {request.bench.deadline:g} s (bench.deadline)"
    ended = late if code is None else f"ended with exit code {code}"
    kind = RequestError if code == RequestError.exit_code else RunError
    error = outcome.error if outcome is not None and outcome.error else last_lines
    raise kind(f"a job on {ranks} rank(s) {ended}: {error}\nCommand: {shlex.join(command)}")


def _code_of(job: Job, deadline: float) -> int | None:
    """The launcher's exit code, or None if it does not finish in time."""
    try:
        return job.launcher.wait(deadline)
    except subprocess.TimeoutExpired:
        return None


def _end(job: Job) -> None:
    if job.launcher.poll() is None:
        job.launcher.terminate()  # it also ends its ranks on other hosts
    job.end(GRACE_S)
