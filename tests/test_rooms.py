"""The plan of the house: which room imports which, as the table in CONTRIBUTING.md has it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conceptlens.tests.conftest import ROOT, archived

ROW = re.compile(r"^\| `(?P<room>[\w/*.]+)` \| .* \| (?P<ours>[^|]*) \| (?P<others>[^|]*) \|$", re.MULTILINE)
NAMED = re.compile(r"`([^`]+)`")
FILES = [
    file.relative_to(ROOT)
    for folder in ("core", "nodes", "pipelines", "harness", "world", "evaluation", "hosting")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
MODULES = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def table() -> dict[str, tuple[list[str], list[str]]]:
    """Of each room the rooms and the packages that it may import."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for row in ROW.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        ours = list(found) if row["ours"] == "all of the above" else list(map(plain, NAMED.findall(row["ours"])))
        found[plain(row["room"])] = ours, NAMED.findall(row["others"])
    return found


def plain(room: str) -> str:
    return room.removesuffix("/*.py").rstrip("/")


TABLE = table()


def imports(file: Path) -> Iterator[str]:
    """All modules that a file imports, wherever in it: ours by their names from the root, others with a "/" before."""
    package = list(file.parts[:-1])
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            target = ".".join(filter(None, base))
            names = [f"{target}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else target for name in names)
        elif isinstance(node, ast.ImportFrom):
            yield f"/{node.module}"
        elif isinstance(node, ast.Import):
            yield from (f"/{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """The innermost room of the table that a module is in."""
    places = module.split(".")
    inner = (("/".join(places[:count])) for count in range(len(places), 0, -1))
    return next(place for place in inner if place in TABLE)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_room_may(module: str) -> None:
    room = room_of(module)
    ours, others = TABLE[room]
    for target in imports(MODULES[module]):
        if target.startswith("/"):
            name = target[1:].split(".")[0]
            assert name in sys.stdlib_module_names or name in others, f"{module} imports {name}"
        elif room_of(target) != room:
            assert room_of(target) in ours, f"{module} imports {target}"


def test_the_table_allows_nothing_that_nobody_imports() -> None:
    used: dict[str, set[str]] = {room: set() for room in TABLE}
    for module, file in MODULES.items():
        for target in imports(file):
            name = target[1:].split(".")[0] if target.startswith("/") else room_of(target)
            used[room_of(module)].add(name)
    idle = {room: {*ours, *others} - used[room] for room, (ours, others) in TABLE.items()}
    assert not {room: names for room, names in idle.items() if names}


def test_no_module_and_no_room_imports_itself_by_way_of_others() -> None:
    modules = {module: {t for t in imports(MODULES[module]) if t in MODULES} - {module} for module in MODULES}
    list(TopologicalSorter(modules).static_order())  # raises CycleError
    rooms: dict[str, set[str]] = {}
    for module, targets in modules.items():
        rooms.setdefault(room_of(module), set()).update(map(room_of, targets))
    list(TopologicalSorter({room: targets - {room} for room, targets in rooms.items()}).static_order())


def test_every_file_has_a_room() -> None:
    """None lies beside the rooms of the table, and no room of the table is empty."""
    assert {room_of(module) for module in MODULES} == set(TABLE)


def test_what_the_registrys_archive_leaves_out_is_not_needed() -> None:
    """Nothing that stays imports what `.comfyignore` names."""
    kept = {Path(file) for file in archived(["__init__.py", *map(str, FILES)])}
    left_out = {module for module, file in MODULES.items() if file not in kept}
    needed = {(str(file), module) for file in kept for module in imports(file)}
    assert not [(file, module) for file, module in needed if module in left_out]
    assert {"evaluation.timed", "world.emoji.train", "world.faces.train"} <= left_out
