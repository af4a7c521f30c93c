"""The house rules of docs/architecture.md: rooms, doors, sizes."""

from __future__ import annotations

import ast
import importlib
import sys

import pytest

from tests.house.sources import ROOT, SRC, imports, module_name, python_files

FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("oci",),
    ("cli", "aio", "pytest_plugin"),
    ("clib",),
    ("krun",),
    ("api", "config"),
    ("shim",),
    ("supervisor", "fileserver"),
    ("share", "image", "layer"),
    ("root",),
    ("request",),
    ("start_data",),
    ("engine",),
    ("net",),
    ("kernel", "sandbox", "disk", "vms"),
    ("blob",),
    ("vhost_user",),
    ("virtio",),
    ("fuse",),
    ("fs",),
    ("loop", "ports", "host", "machine", "buffers", "secret", "record", "plain_json", "signals", "errors", "version"),
)
"""Imports go to later lines only. The last line is the ground: imported by all, importing only itself."""

GROUND = FLOORS[-1]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

LINES_PER_MODULE = 600
LINES_PER_FUNCTION = 70


def room_of(module: str) -> str:
    """`fs` for `pykrun.fs.augment`, "" for `pykrun` itself."""
    return (module + "..").split(".")[1]


def pykrun_imports() -> list[tuple[str, str, str, str]]:
    """(where, room, module, name) of each import that leads from one room of pykrun to another."""
    found = []
    for path in python_files(SRC / "pykrun"):
        room = room_of(module_name(path))
        for line, module, name in imports(path):
            full = f"{module}.{name}" if module == "pykrun" and name in FLOOR else module
            if full.split(".")[0] == "pykrun" and room_of(full) not in (room, ""):
                found.append((f"{path.relative_to(ROOT)}:{line}", room, full, name))
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module_name(path)) for path in python_files(SRC / "pykrun")} - {""}
    assert rooms - FLOOR.keys() == set(), "give the room its place in FLOORS and in docs/architecture.md"


def test_imports_go_one_way() -> None:
    wrong = [
        f"{where}: {room} imports {module}"
        for where, room, module, _ in pykrun_imports()
        if room and FLOOR[room_of(module)] <= FLOOR[room] and not (room in GROUND and room_of(module) in GROUND)
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_a_neighbours_underscore() -> None:
    wrong = [
        f"{where}: {module} {name}"
        for where, _, module, name in pykrun_imports()
        if name.startswith("_") or "._" in module
    ]
    assert not wrong, "\n".join(wrong)


def test_host_and_guest_do_not_meet() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for package, other in (("pykrun", "krun_init"), ("krun_init", "pykrun"))
        for path in python_files(SRC / package)
        for line, module, _ in imports(path)
        if module.split(".")[0] == other
    ]
    assert not wrong, "\n".join(wrong)


def test_source_imports_nothing_but_the_standard_library() -> None:
    known = sys.stdlib_module_names | {"pykrun", "krun_init", "_linux"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in python_files(SRC)
        for line, module, _ in imports(path)
        if module.split(".")[0] not in known and not (module == "pytest" and path.name == "pytest_plugin.py")
    ]  # pytest itself imports the plugin, and nobody else does
    assert not wrong, "\n".join(wrong)


def test_modules_hold_one_idea() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in python_files()}
    assert {name: count for name, count in lines.items() if count > LINES_PER_MODULE} == {}


def test_no_function_needs_scrolling() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in python_files(SRC) + python_files(ROOT / "benchmarks") + python_files(ROOT / "examples")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LINES_PER_FUNCTION
    ]
    assert not long, "\n".join(long)


PACKAGES = [module_name(path) for path in python_files(SRC) if path.name == "__init__.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_names_exists(package: str) -> None:
    module = importlib.import_module(package)
    missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
    assert not missing
