"""What a C program hands over arrives in Python, and what Python says arrives in C."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.clib.driver import CLibrary

MOST = 4096


@pytest.fixture(scope="module")
def c() -> Iterator[CLibrary]:
    with CLibrary() as library:
        yield library


def test_contexts_are_numbers_of_their_own(c: CLibrary) -> None:
    first, second = c.krun_create_ctx(), c.krun_create_ctx()
    assert first >= 0
    assert second not in (first, -1)
    assert c.krun_free_ctx(first) == 0
    assert c.krun_free_ctx(first) == -errno.ENOENT
    assert c.krun_free_ctx(0xFFFFFFFF) == -errno.ENOENT


def test_arrays_end_with_null_and_have_a_limit(c: CLibrary) -> None:
    ctx = c.krun_create_ctx()
    assert c.krun_set_exec(ctx, b"/x", [b"word"] * MOST, [b"A=1"]) == 0
    assert c.krun_set_exec(ctx, b"/x", [b"word"] * (MOST + 1), [b"A=1"]) == -errno.EINVAL
    assert c.krun_set_exec(ctx, b"/x", [b"one", None, b"\xff"], []) == 0
    assert c.krun_set_exec(ctx, b"/x", [b"\xff"], []) == -errno.EINVAL
    assert c.krun_set_exec(ctx, b"/x", None, None) == 0


def test_text_of_any_script(c: CLibrary) -> None:
    ctx = c.krun_create_ctx()
    assert c.krun_set_workdir(ctx, "/tmp/ä ö/\u65e5\u672c") == 0
    assert c.krun_set_workdir(ctx, b"\xc3") == -errno.EINVAL
    assert c.krun_set_workdir(ctx, None) == -errno.EINVAL


def test_the_init_is_an_elf_file_and_stays_where_it_is(c: CLibrary) -> None:
    status, start = c.krun_get_default_init()
    assert status == 0
    assert bytes(start) == b"\x7fELF"
    size = c.init[0]
    assert size > 100_000
    assert c.krun_get_default_init()[0] == 0
    assert c.init[0] == size


def test_addresses_for_results_must_be_there(c: CLibrary) -> None:
    assert c._call("krun_get_default_init", ["n", "o"], []) == -errno.EINVAL
    assert c._call("krun_get_default_init", ["o", "n"], []) == -errno.EINVAL


def test_data_without_bytes_may_be_null(c: CLibrary) -> None:
    ctx = c.krun_create_ctx()
    assert c.krun_add_virtiofs(ctx, "data", None) == 0
    assert c.krun_fs_add_overlay_file(ctx, "data", "empty", None, 0, 0o644, False) == 0
    assert c.krun_fs_add_overlay_file(ctx, "data", "null", None, 1, 0o644, False) == -errno.EINVAL
    assert c.krun_fs_add_overlay_file(ctx, "data", "vast", b"x", 1 << 63, 0o644, False) == -errno.EINVAL


def test_numbers_keep_their_signs(c: CLibrary) -> None:
    ctx = c.krun_create_ctx()
    assert c.krun_init_log(-2, 1, 0, 0) == -errno.EINVAL
    assert c.krun_init_log(0, 1, 0, 0) == -errno.EINVAL
    assert c.krun_has_feature((1 << 64) - 1) == -errno.EINVAL
    assert c.krun_has_feature(2) == 0
    assert c.krun_get_max_vcpus() >= 1
    mac = bytes(range(2, 8))
    assert c.krun_add_net_unixstream(ctx, "/sock", -1, mac, 0, 0) == 0
    assert c.krun_add_net_unixstream(ctx, "/sock", -1, None, 0, 0) == -errno.EINVAL
    assert c.krun_add_net_unixstream(ctx, None, -1, mac, 0, 0) == -errno.EINVAL


def test_queue_sizes_come_with_their_number(c: CLibrary) -> None:
    ctx = c.krun_create_ctx()
    for count, sizes in ((2, [64, 64]), (0, [64, 64, 0]), (0, None), (1, None)):
        assert c.krun_add_vhost_user_device(ctx, 4, "/sock", None, count, sizes) == -errno.ENOTSUP


def test_the_log_goes_to_the_descriptor_that_was_given(c: CLibrary) -> None:
    with tempfile.TemporaryFile() as target:
        assert c.krun_init_log(target.fileno(), 1, 2, 1) == 0
        assert c.krun_free_ctx(77) == -errno.ENOENT
        target.seek(0)
        text = target.read().decode()
    assert "krun_free_ctx" in text
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_variables_are_those_of_the_process_now() -> None:
    """RUST_LOG is read when the log starts; setenv(3) after the load counts (ways.c: environment)."""
    read, write = os.pipe()
    with open(read, "rb") as reader:
        with open(write, "wb") as errors, CLibrary({"RUST_LOG": "error"}, errors=errors) as c:
            assert c.krun_set_log_level(0) == 0
            assert c.krun_free_ctx(77) == -errno.ENOENT
        assert b"krun_free_ctx" in reader.read()
