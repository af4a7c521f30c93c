"""Layers whose bytes are random, or were good before some were changed: a tree or an ImageError, the host as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun.errors import ImageError
from pykrun.image import tar
from pykrun.image.tree import Tree, remove_tree
from pykrun.image.unpack import Unpacker
from tests.image.make import Member, entry, file, folder, hard, layer, link

NAMES = ("a", "b", "d", "d/a", "d/e", "d/e/f", "l", "l/x", "../a", "/d", ".wh.a", "d/.wh.e", "d/.wh..wh..opq", ".wh...")
TARGETS = ("a", "/", "..", "../..", "d", "/d/e", "l", "{outside}", "../../../../../../..{outside}", "x/../../y")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Callable[[], Tree]]:
    """Empty trees, one after the other; the one before is removed, which has to work whatever is in it."""
    made: list[Path] = []
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    def clear() -> None:
        while made:
            remove_tree(os.fsencode(made.pop().name), parent)

    def fresh() -> Tree:
        clear()
        made.append(tmp_path / "tree")
        made[0].mkdir()
        return Tree(os.open(made[0], os.O_RDONLY | os.O_DIRECTORY))

    yield fresh
    clear()
    os.close(parent)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "outside/sub").mkdir(parents=True)
    (tmp_path / "outside/file").write_text("untouched")
    before = [(path, path.lstat()) for path in sorted((tmp_path / "outside").rglob("*"))]
    yield tmp_path / "outside"
    after = [(path, path.lstat()) for path in sorted((tmp_path / "outside").rglob("*"))]
    assert [(path, found.st_ctime_ns, found.st_nlink) for path, found in before] == [
        (path, found.st_ctime_ns, found.st_nlink) for path, found in after
    ]
    assert set(os.listdir(tmp_path)) <= {"outside", "tree"}


def lay(tree: Tree, layers: list[bytes]) -> bool:
    """Whether they were taken."""
    unpacker = Unpacker(tree)
    try:
        for one in layers:
            unpacker.layer([one[at : at + 700] for at in range(0, len(one), 700)], "layer")
        unpacker.finish()
    except ImageError:
        return False
    finally:
        tree.close()
    return True


def some_member(dice: random.Random, outside: Path) -> Member:
    name = dice.choice(NAMES).format(outside=outside)
    target = dice.choice(TARGETS).format(outside=outside)
    fields = {
        "mode": dice.choice((0, 0o777, 0o4755, 0o100)),
        "uid": dice.choice((0, 7)),
        "mtime": dice.choice((0, 9e9)),
    }
    kind = dice.randrange(6)
    if kind == 0:
        return link(name, target, **fields)
    if kind == 1:
        return hard(name, dice.choice((target, dice.choice(NAMES))), **fields)
    if kind == 2:
        return folder(name, **fields)
    if kind == 3:
        return entry(name, dice.choice((b"3", b"4", b"6")), devmajor=1, devminor=3, **fields)
    return file(name, b"x" * dice.choice((0, 1, 600)), xattrs=dice.choice(({}, {"user.a": "b"})), **fields)


@pytest.mark.parametrize("rounds", [250, pytest.param(2000, marks=pytest.mark.full)])
def test_random_entries(tree: Callable[[], Tree], outside: Path, rounds: int) -> None:
    dice = random.Random(6)
    taken = 0
    for _ in range(rounds):
        layers = [layer(*(some_member(dice, outside) for _ in range(dice.randrange(8)))) for _ in range(3)]
        taken += lay(tree(), layers)
    assert 0 < taken < rounds


@pytest.mark.parametrize("rounds", [300, pytest.param(2000, marks=pytest.mark.full)])
def test_changed_bytes(tree: Callable[[], Tree], outside: Path, rounds: int) -> None:
    """With right checksums mostly, for without nothing comes far."""
    dice = random.Random(7)
    good = layer(
        folder("d"),
        file("d/" + "n" * 150, b"x" * 700),
        link("l", f"{outside}"),
        file("l/y", b"z"),
        hard("h", "l/y"),
        file("c", b"", xattrs={"user.a": "b"}, mtime=1.5),
        folder("e", mode=0),
    )
    taken = 0
    for _ in range(rounds):
        data = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 5, 40))):
            data[dice.randrange(len(data) - 1024)] = dice.choice(
                (0, 0x2F, 0x2E, 0x30, 0x37, 0x80, 0xFF, dice.randrange(256))
            )
        for at in range(0, len(data) - 1024, 512):
            if data[at + 257 : at + 262] == b"ustar" and dice.random() < 0.95:
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        del data[dice.choice((len(data), len(data), dice.randrange(len(data)))) :]
        taken += lay(tree(), [bytes(data), good])
    assert 0 < taken < rounds


@pytest.mark.parametrize("rounds", [1000, pytest.param(20_000, marks=pytest.mark.full)])
def test_random_bytes(rounds: int) -> None:
    dice = random.Random(8)
    for _ in range(rounds):
        data = dice.randbytes(dice.randrange(3000))
        try:
            for one in tar.entries(tar.Stream([data])):
                one.read(100)
        except ImageError:
            continue
        assert not any(data[:512])
