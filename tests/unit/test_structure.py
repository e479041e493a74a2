"""The table of packages in docs/design.md is what the code imports, and a package imports only packages below it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CODE = PROJECT / "vggdist"
ROW = r"^\| `(\w+)/` \| .* \| ([\w, ]*) \|$"
TABLE = re.findall(ROW, (PROJECT / "docs" / "design.md").read_text(), flags=re.MULTILINE)


def packages() -> set[str]:
    return {path.parent.name for path in CODE.glob("*/__init__.py")}


def imported(path: Path) -> set[str]:
    """The packages that a file imports from, also where it does so for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("vggdist.")} & packages()


def test_the_table_has_every_package_with_its_imports() -> None:
    imports = {name: set[str]().union(*map(imported, (CODE / name).rglob("*.py"))) - {name} for name in packages()}
    assert {name: set(text.split(", ")) - {""} for name, text in TABLE} == imports


def test_a_package_imports_only_those_below_it() -> None:
    names = [name for name, _ in TABLE]
    for place, (name, text) in enumerate(TABLE):
        assert set(text.split(", ")) - {""} <= set(names[place + 1 :]), name
