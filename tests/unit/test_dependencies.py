"""pyproject.toml pins every direct and indirect dependency."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
UV = PROJECT["tool"]["uv"]
DIRECT = [Requirement(line) for line in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]]


def pins(lines: list[str]) -> set[str]:
    """The names of the requirements that allow only one version."""
    found = map(Requirement, lines)
    return {canonicalize_name(one.name) for one in found if [part.operator for part in one.specifier] == ["=="]}


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a requirement of a package that is installed with some extras holds on this platform."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})


def installed() -> tuple[set[str], set[str]]:
    """The packages that the project needs, directly or indirectly: the installed and the missing ones."""
    found: set[tuple[str, frozenset[str]]] = set()
    missing: set[str] = set()
    waiting = list(DIRECT)
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in found or name in missing:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            missing.add(name)
            continue
        found.add((name, extras))
        waiting += [needed for needed in map(Requirement, lines) if applies(needed, set(extras))]
    return {name for name, _ in found}, missing


def test_every_package_that_is_installed_is_pinned() -> None:
    known = pins([str(one) for one in DIRECT]) | pins(UV["constraint-dependencies"])
    assert sorted(installed()[0] - known) == []


def test_every_constraint_is_exact_and_of_a_package_that_is_needed() -> None:
    packages, missing = installed()
    if missing:
        pytest.skip(f"not an environment of uv sync: {', '.join(sorted(missing))} missing")
    constraints = {canonicalize_name(Requirement(line).name) for line in UV["constraint-dependencies"]}
    assert constraints == pins(UV["constraint-dependencies"])
    assert sorted(constraints - packages) == []


def test_what_builds_horovod_and_the_project_is_pinned() -> None:
    builds = [*UV["extra-build-dependencies"]["horovod"], *PROJECT["build-system"]["requires"]]
    # An entry that is a table gets its version from the target environment (match-runtime).
    named = {canonicalize_name(Requirement(line).name) for line in builds if isinstance(line, str)}
    assert sorted(named - pins(UV["build-constraint-dependencies"])) == []
