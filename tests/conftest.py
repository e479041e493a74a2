"""How pytest-xdist distributes the tests (``pytest -n 4``): those of a group run in one worker, one after the other.

xdist's own groups (``--dist loadgroup``) have no effect with pytest 9.2, whose node ids xdist 3.8 cannot change.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests import rank_pool

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

_POOL = {
    "launch": ("bad_input", "bench", "doctor", "imagenet", "seeds", "train"),
    "ranks": ("decoded", "differences", "equality", "evaluation", "host", "parts", "pretrained", "resume", "world"),
}
_POOL_FILES = {f"tests/{folder}/test_{name}.py": f"rank pool of {folder}" for folder, names in _POOL.items() for name in names}
_GROUPS = {
    **_POOL_FILES,
    "tests/launch/test_slurm.py": "SLURM",  # one cluster
    "tests/launch/test_network.py": "two hosts",
    "tests/test_readme.py": "README",  # each command uses what the one before has made
}
_FIRST = ("rank pool of ranks", "rank pool of launch", "SLURM", "two hosts")
"""The longest groups."""
_UNIT = "tests/unit/"


def group_of(test: str) -> str:
    """The group of a test, by its node id; most tests that start processes are groups of their own."""
    file = _file(test)
    return file if file.startswith(_UNIT) else _GROUPS.get(file, test)


def _file(test: str) -> str:
    return test.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the longest groups to the beginning where tests are distributed: no worker is then alone with one at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {group: number for number, group in enumerate(_FIRST)}
        items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Distributes the groups in their order: the longest, then the others that start processes, then short unit tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends the ranks of pools that the next test does not need."""
    if _file(item.nodeid) in _POOL_FILES:
        follows = nextitem is not None and _file(nextitem.nodeid) in _POOL_FILES
        asked = getattr(getattr(nextitem, "callspec", None), "params", {}) if follows else {}
        rank_pool.close_all(keep_small=follows, keep=(asked.get("launcher"), asked.get("size")))
