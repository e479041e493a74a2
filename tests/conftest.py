"""How pytest-xdist distributes the tests (``--dist loadgroup``): those of a group run in one worker, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

_UNIT = Path(__file__).parent / "unit"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file of unit tests is a group: they are short, and share their module's fixtures."""
    for item in items:
        if item.path.is_relative_to(_UNIT):
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(_UNIT))))
