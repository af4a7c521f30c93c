"""One-shot files: one look-up, and what becomes of the bytes. Lazy content, which races in the same places."""

from __future__ import annotations

import errno
import stat
import threading
import time

import pytest

from pykrun.fs import AugmentFs, InodeAllocator, MemorySource
from tests.fs.memory import MemoryFs
from tests.fs.virtual_world import World
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest


def test_one_shot_is_found_once(world: World) -> None:
    found = world.guest.lookup(1, b"once")
    assert (found.entry_valid, found.attr_valid) == (0, 0)
    assert (found.attr.mode, found.attr.size) == (stat.S_IFREG | 0o400, 6)
    for _ in range(2):
        assert world.guest.call(fuse.LOOKUP, 1, b"once\0").error == errno.ENOENT
    world.guest.getattr(found.nodeid)


def test_one_shot_is_readable_until_its_last_release(world: World) -> None:
    guest, node = world.guest, world.node(b"/once")
    first, second = guest.open(node), guest.open(node)
    guest.forget(node)  # out of order, as a hostile guest does it: the open file stays
    assert guest.read(node, first) == b"secret"
    assert guest.release(node, first) == 0
    assert guest.read(node, second, 2, 2) == b"cr"
    assert guest.release(node, second) == 0
    assert guest.call(fuse.GETATTR, node, bytes(16)).error == errno.ESTALE
    assert guest.call(fuse.OPEN, node, bytes(8)).error == errno.ESTALE
    assert guest.lookup_error(1, b"once") == errno.ENOENT


def test_one_shot_is_stale_after_release_also_while_the_guest_knows_it(world: World) -> None:
    guest, node = world.guest, world.node(b"/once")
    fh = guest.open(node)
    assert guest.release(node, fh) == 0
    for opcode, body in ((fuse.GETATTR, bytes(16)), (fuse.OPEN, bytes(8))):
        assert guest.call(opcode, node, body).error == errno.ESTALE
    guest.forget(node)
    assert guest.call(fuse.GETATTR, node, bytes(16)).error == errno.ESTALE


def test_one_shot_that_was_never_opened_ends_with_its_forget(world: World) -> None:
    guest, node = world.guest, world.node(b"/once")
    guest.getattr(node)
    guest.forget(node)
    assert guest.call(fuse.GETATTR, node, bytes(16)).error == errno.ESTALE
    assert guest.call(fuse.OPEN, node, bytes(8)).error == errno.ESTALE


def test_one_shot_cannot_be_guessed(world: World) -> None:
    guest = world.guest
    for node in range(2, 40):
        assert guest.call(fuse.OPEN, node, bytes(8)).error == errno.ESTALE
    assert guest.content(b"/once") == b"secret"


@pytest.mark.parametrize("ending", ["release", "forget", "destroy", "reset"])
def test_one_shot_bytes_are_wiped(ending: str) -> None:
    secret = bytearray(b"secret")
    fs = fuse.augmented()
    fs.add_file(b"/once", MemorySource(secret, wipe=True), one_shot=True)
    guest = Guest(fs)
    node = guest.lookup(1, b"once").nodeid
    if ending != "forget":
        fh = guest.open(node)
        assert guest.read(node, fh) == b"secret"
    assert secret == b"secret"
    if ending == "release":
        guest.release(node, fh)
    elif ending == "forget":
        guest.forget(node)
    elif ending == "destroy":
        guest.good(fuse.DESTROY, 0)
    else:
        guest.server.reset()
    assert secret == bytes(6)


def test_close_drops_what_was_never_used() -> None:
    secret = bytearray(b"secret")
    fs = fuse.augmented()
    fs.add_file(b"/once", MemorySource(secret, wipe=True), one_shot=True)
    fs.close()
    assert secret == bytes(6)


def test_one_shot_has_one_winner_when_many_race() -> None:
    rounds = 200
    fs = fuse.augmented()
    for number in range(rounds):
        fs.add_file(b"/once%d" % number, b"x", one_shot=True)
    wins: list[list[int]] = [[0] * rounds for _ in range(6)]
    errors: set[int | None] = set()
    barrier = threading.Barrier(len(wins))

    def race(mine: list[int]) -> None:
        for number in range(rounds):
            barrier.wait(30)
            try:
                fs.lookup(1, b"once%d" % number)
                mine[number] = 1
            except OSError as error:
                errors.add(error.errno)

    threads = [threading.Thread(target=race, args=(mine,)) for mine in wins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [sum(round_) for round_ in zip(*wins, strict=True)] == [1] * rounds
    assert errors == {errno.ENOENT}


def test_one_shot_has_one_winner_when_all_wait_for_its_content() -> None:
    """Every racer has seen that the file is still there before any of them can take it."""
    together = 4
    started = threading.Semaphore(0)

    def produce() -> bytes:
        for _ in range(together):
            assert started.acquire(timeout=10)
        time.sleep(0.05)  # the others come to wait for this call
        return b"late"

    fs = fuse.augmented()
    fs.add_file(b"/once", produce, one_shot=True)
    won: list[int] = []

    def race() -> None:
        started.release()
        try:
            won.append(fs.lookup(1, b"once").ino)
        except FileNotFoundError:
            pass

    threads = [threading.Thread(target=race) for _ in range(together)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(won) == 1


@pytest.mark.parametrize("opened", [False, True])
def test_nothing_is_kept_of_a_spent_one_shot(world: World, opened: bool) -> None:
    before = len(world.fs._nodes)
    node = world.node(b"/once")
    if opened:
        world.guest.release(node, world.guest.open(node))
    world.guest.forget(node)
    assert len(world.fs._nodes) == before


def test_one_shot_hides_the_inner_name_also_when_spent() -> None:
    allocator = InodeAllocator()
    inner = MemoryFs(allocator)
    inner.plant(b"/etc/key", b"inner")
    fs = AugmentFs(inner, allocator)
    fs.add_directory(b"/etc")
    fs.add_file(b"/etc/key", b"virtual", one_shot=True)
    guest = Guest(fs)
    assert guest.content(b"/etc/key") == b"virtual"
    etc = guest.walk(b"/etc").nodeid
    assert guest.lookup_error(etc, b"key") == errno.ENOENT
    assert b"key" not in guest.names(etc)


# lazy content


def test_lazy_file_is_made_at_its_first_lookup() -> None:
    calls: list[int] = []

    def produce() -> bytes:
        calls.append(1)
        return b"made"

    fs = fuse.augmented()
    fs.add_file(b"/lazy", produce)
    guest = Guest(fs)
    assert b"lazy" in guest.names(1)
    assert b"lazy" in guest.names(1, plus=True)
    assert not calls
    assert guest.lookup(1, b"lazy").attr.size == 4
    assert guest.content(b"/lazy") == b"made"
    assert calls == [1]
    assert [entry.nodeid > 0 for entry in guest.listing(1, plus=True) if entry.name == b"lazy"] == [True]


@pytest.mark.parametrize("one_shot", [False, True])
def test_lazy_file_that_fails(one_shot: bool) -> None:
    def produce() -> bytes:
        raise ValueError("no")

    fs = fuse.augmented()
    fs.add_file(b"/lazy", produce, one_shot=one_shot)
    guest = Guest(fs)
    for _ in range(2):
        assert guest.lookup_error(1, b"lazy") == errno.EIO
    assert guest.server.faults == 0
