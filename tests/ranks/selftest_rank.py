"""A rank of a self test on the CPU: ``python -m tests.ranks.selftest_rank FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from vggdist.environment import variables

variables.apply()

import mxnet as mx  # noqa: E402

from tests.selftests import TINY  # noqa: E402
from vggdist.collectives.world import World  # noqa: E402
from vggdist.selftest.selftest import selftest  # noqa: E402

if __name__ == "__main__":
    findings = selftest(World(), mx.cpu(), Path(sys.argv[1]), TINY)
    sys.exit(any(finding.level == "error" for finding in findings))
