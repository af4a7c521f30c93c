"""Contexts: ids, threads, children, and what is left when they are gone."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

import pytest

from pykrun import krun
from pykrun.krun.context import find, reap
from tests.support.command import ROOT, wait_until

MAC = b"\x52\x54\0\0\0\1"


def test_the_functions_of_the_header() -> None:
    assert len(krun.__all__) == 67
    for name in krun.__all__:
        function = getattr(krun, name)
        assert function.__doc__, name
        assert ":return:" in function.__doc__, name


def test_no_id_is_used_twice() -> None:
    first, second = krun.krun_create_ctx(), krun.krun_create_ctx()
    assert second == first + 1
    assert krun.krun_free_ctx(second) == 0
    third = krun.krun_create_ctx()
    assert third == second + 1
    assert krun.krun_free_ctx(second) == -errno.ENOENT
    assert krun.krun_free_ctx(first) == krun.krun_free_ctx(third) == 0


def test_a_context_that_is_freed_leaves_nothing() -> None:
    """Its process ends, and its descriptors are closed."""
    reap()
    before = len(os.listdir("/proc/self/fd"))
    ctx = krun.krun_create_ctx()
    shim = find(ctx).shim
    assert shim is not None
    assert krun.krun_get_shutdown_eventfd(ctx) >= 0
    assert krun.krun_set_kernel(ctx, "/dev/null", 0, "/dev/null", None) == 0
    assert krun.krun_set_kernel(ctx, "/dev/null", 0, None, None) == 0
    assert krun.krun_free_ctx(ctx) == 0

    def is_gone() -> bool:
        reap()  # as whoever makes or frees a context does
        return not os.path.exists(f"/proc/{shim.pid}")

    wait_until(is_gone, 20, "the end of the supervisor")
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_descriptor_that_the_caller_has_closed() -> None:
    """The rest of the context is given back all the same."""
    made = krun.krun_create_ctx()
    os.close(krun.krun_get_shutdown_eventfd(made))
    nothing = find(made).nothing
    assert krun.krun_free_ctx(made) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(nothing)


def test_what_is_set_last_counts(ctx: int) -> None:
    assert krun.krun_set_vm_config(ctx, 2, 512) == krun.krun_set_vm_config(ctx, 1, 256) == 0
    assert krun.krun_set_exec(ctx, "/a", ["1"], ["A=1"]) == krun.krun_set_env(ctx, ["B=2"]) == 0
    assert krun.krun_set_workdir(ctx, b"/w") == krun.krun_set_rlimits(ctx, ["7=1:1", None, "8=2:2"]) == 0
    assert krun.krun_set_root_disk(ctx, "/one") == krun.krun_set_root_disk(ctx, "/two") == 0
    assert krun.krun_set_data_disk(ctx, "/three") == 0
    assert krun.krun_set_passt_fd(ctx, 7) == krun.krun_set_gvproxy_path(ctx, "/gv") == 0
    context = find(ctx)
    assert (context.cpus, context.memory_mib) == (1, 256)
    assert (context.exec_path, context.args, context.env) == ("/a", ["1"], [b"B=2"])
    assert (context.workdir, context.rlimits) == ("/w", ["7=1:1"])  # NULL ends an array
    assert [disk.path for disk in context.all_disks()] == ["/two", "/three"]
    assert [(net.kind, net.path, net.vfkit) for net in context.all_nets()] == [("unixgram", "/gv", True)]
    assert krun.krun_add_disk(ctx, "d", "/new", True) == 0
    assert [disk.path for disk in context.all_disks()] == ["/new"]  # the old functions no longer count


def test_data_is_not_copied(ctx: int) -> None:
    data = bytearray(b"0123456789")
    assert krun.krun_add_virtiofs(ctx, "tag", None) == 0
    assert krun.krun_fs_add_overlay_file(ctx, "tag", "f", data, 4, 0o100644, True) == 0
    entry = find(ctx).filesystems[0].entries["f"]
    data[:2] = b"xy"
    assert entry.data is not None
    assert (bytes(entry.data), entry.mode, entry.one_shot) == (b"xy23", 0o644, True)
    with pytest.raises(BufferError):
        data.clear()  # it is held


def test_the_init_is_one_memory() -> None:
    (number, init), (again, same) = krun.krun_get_default_init(), krun.krun_get_default_init()
    assert number == again == 0
    assert init is same
    assert bytes(init[:4]) == b"\x7fELF"
    assert init.readonly


def test_threads() -> None:
    """Each with contexts of its own, all with one: nothing is lost or mixed up."""
    shared = krun.krun_create_ctx()
    failures: list[object] = []

    def work(number: int) -> None:
        try:
            own = krun.krun_create_ctx()
            for turn in range(100):
                assert krun.krun_add_virtiofs(shared, f"t{number}-{turn}", "/") == 0
                assert krun.krun_set_workdir(own, f"/{number}") == 0
            assert find(own).workdir == f"/{number}"
            assert krun.krun_free_ctx(own) == 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({filesystem.tag for filesystem in find(shared).filesystems}) == 600
    assert krun.krun_free_ctx(shared) == 0


def test_a_child_is_not_held_up_by_a_thread_of_its_parent(ctx: int) -> None:
    """It may have had the lock when the process forked."""
    from pykrun.krun import calls

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with calls.LOCK:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(0 if krun.krun_set_root(ctx, "/") == 0 else 1)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    done.set()
    thread.join()
    assert ended == (child, 0)


@pytest.mark.parametrize("function", [krun.krun_disable_implicit_vsock, krun.krun_disable_implicit_console])
def test_what_may_be_said_twice(ctx: int, function: Callable[[int], int]) -> None:
    assert function(ctx) == function(ctx) == 0


def test_the_page_has_every_function() -> None:
    page = (ROOT / "docs" / "krun.md").read_text(encoding="utf-8")
    table = page[page.index("## The functions") : page.index("## Speed")]
    assert {name for name in krun.__all__ if f"`{name}`" not in table} == set()
