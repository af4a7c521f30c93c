"""Every error of the table, provoked once, with the number that libkrun's header gives it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun import krun

GONE = 1 << 30
"""No context has that id."""
MAC = b"\x52\x54\0\0\0\1"
ROOT = "/dev/root"
NOT_UTF8 = b"/\xff"

Function = Callable[..., int]

Wrong = tuple[Function, tuple[object, ...], int]
"""A function, its arguments after the context, and the errno."""

TEXTS: list[tuple[Function, tuple[object, ...], int]] = [
    (krun.krun_set_root, ("/",), 0),
    (krun.krun_set_root_disk, ("/d",), 0),
    (krun.krun_set_data_disk, ("/d",), 0),
    (krun.krun_add_disk, ("id", "/d", False), 0),
    (krun.krun_add_disk, ("id", "/d", False), 1),
    (krun.krun_add_disk2, ("id", "/d", 0, False), 0),
    (krun.krun_add_disk2, ("id", "/d", 0, False), 1),
    (krun.krun_add_disk3, ("id", "/d", 0, False, False, 0), 0),
    (krun.krun_add_disk3, ("id", "/d", 0, False, False, 0), 1),
    (krun.krun_set_root_disk_remount, ("/dev/vda", None, None), 0),
    (krun.krun_add_virtiofs, ("tag", "/"), 0),
    (krun.krun_add_virtiofs2, ("tag", "/", 0), 0),
    (krun.krun_add_virtiofs3, ("tag", "/", 0, False), 0),
    (krun.krun_fs_add_overlay_file, (ROOT, "f", b"", 0, 0o644, False), 0),
    (krun.krun_fs_add_overlay_file, (ROOT, "f", b"", 0, 0o644, False), 1),
    (krun.krun_fs_add_overlay_dir, (ROOT, "d", 0o755), 0),
    (krun.krun_fs_add_overlay_dir, (ROOT, "d", 0o755), 1),
    (krun.krun_add_net_tap, ("tap0", MAC, 0, 0), 0),
    (krun.krun_set_gvproxy_path, ("/s",), 0),
    (krun.krun_add_vsock_port, (1, "/s"), 1),
    (krun.krun_add_vsock_port2, (1, "/s", False), 1),
    (krun.krun_set_console_output, ("/o",), 0),
    (krun.krun_set_kernel_console, ("hvc0",), 0),
    (krun.krun_set_exec, ("/bin/true", [], []), 0),
    (krun.krun_set_workdir, ("/",), 0),
    (krun.krun_set_kernel, ("/dev/null", 0, None, None), 0),
    (krun.krun_set_firmware, ("/dev/null",), 0),
    (krun.krun_add_vhost_user_device, (4, "/s", None, 0, None), 1),
    (krun.krun_set_tee_config_file, ("/config",), 0),
]
"""Functions with good arguments, and which of those is a text that must not be NULL."""

OPTIONAL: list[tuple[Function, tuple[object, ...], int]] = [
    (krun.krun_set_root_disk_remount, ("/dev/vda", NOT_UTF8, None), 1),
    (krun.krun_set_root_disk_remount, ("/dev/vda", None, NOT_UTF8), 2),
    (krun.krun_add_virtiofs3, ("tag", NOT_UTF8, 0, False), 1),
    (krun.krun_add_net_unixstream, (NOT_UTF8, -1, MAC, 0, 0), 0),
    (krun.krun_add_net_unixgram, (NOT_UTF8, -1, MAC, 0, 0), 0),
    (krun.krun_set_kernel, ("/dev/null", 0, NOT_UTF8, None), 2),
    (krun.krun_set_kernel, ("/dev/null", 0, None, NOT_UTF8), 3),
    (krun.krun_add_vhost_user_device, (4, "/s", NOT_UTF8, 0, None), 2),
    (krun.krun_add_console_port_inout, (0, NOT_UTF8, 0, 1), 1),
]
"""Texts that may be NULL, but not no text."""

ARRAYS: list[tuple[Function, tuple[object, ...], int, bool]] = [
    (krun.krun_set_port_map, (["80:80"],), 0, True),
    (krun.krun_set_rlimits, (["7=1:1"],), 0, False),
    (krun.krun_set_smbios_oem_strings, (["text"],), 0, False),
    (krun.krun_set_exec, ("/bin/true", ["a"], []), 1, True),
    (krun.krun_set_exec, ("/bin/true", [], ["A=b"]), 2, True),
    (krun.krun_set_env, (["A=b"],), 0, True),
]
"""Functions with an array: good arguments, which one it is, and whether NULL means something else than an error."""

UNSUPPORTED: list[tuple[Function, tuple[object, ...]]] = [
    (krun.krun_add_display, (640, 480)),
    (krun.krun_display_set_edid, (0, b"edid", 4)),
    (krun.krun_display_set_dpi, (0, 96)),
    (krun.krun_display_set_physical_size, (0, 100, 100)),
    (krun.krun_display_set_refresh_rate, (0, 60)),
    (krun.krun_set_display_backend, (b"", 0)),
    (krun.krun_add_input_device, (None, 0, None, 0)),
    (krun.krun_add_input_device_fd, (0,)),
    (krun.krun_add_vhost_user_device, (4, "/s", "rng", 1, [256])),
    (krun.krun_set_tee_config_file, ("/config",)),
    (krun.krun_set_port_map, (None,)),
]

CONTEXTS: list[tuple[Function, tuple[object, ...]]] = [
    *UNSUPPORTED,
    *((function, arguments) for function, arguments, _ in TEXTS),
    *((function, arguments) for function, arguments, _, _ in ARRAYS),
    (krun.krun_free_ctx, ()),
    (krun.krun_set_vm_config, (1, 256)),
    (krun.krun_split_irqchip, (False,)),
    (krun.krun_set_nested_virt, (False,)),
    (krun.krun_setuid, (0,)),
    (krun.krun_setgid, (0,)),
    (krun.krun_disable_implicit_init, ()),
    (krun.krun_disable_implicit_console, ()),
    (krun.krun_disable_implicit_vsock, ()),
    (krun.krun_add_net_unixstream, ("/s", -1, MAC, 0, 0)),
    (krun.krun_add_net_unixgram, ("/s", -1, MAC, 0, 0)),
    (krun.krun_set_passt_fd, (0,)),
    (krun.krun_set_net_mac, (MAC,)),
    (krun.krun_add_vsock, (0,)),
    (krun.krun_add_virtio_console_default, (0, 1, 2)),
    (krun.krun_add_serial_console_default, (0, 1)),
    (krun.krun_add_virtio_console_multiport, ()),
    (krun.krun_add_console_port_inout, (0, "", 0, 1)),
    (krun.krun_set_gpu_options, (0,)),
    (krun.krun_set_gpu_options2, (0, 0)),
    (krun.krun_get_shutdown_eventfd, ()),
    (krun.krun_start_enter, ()),
]

INVALID: list[tuple[Function, tuple[object, ...]]] = [
    (krun.krun_set_vm_config, (0, 256)),
    (krun.krun_set_vm_config, (1, 0)),
    (krun.krun_set_vm_config, (256, 256)),
    (krun.krun_set_vm_config, (1, 1 << 32)),
    (krun.krun_setuid, (-1,)),
    (krun.krun_setgid, (1 << 32,)),
    (krun.krun_add_disk2, ("id", "/d", 3, False)),
    (krun.krun_add_disk3, ("id", "/d", 3, False, False, 0)),
    (krun.krun_add_disk3, ("id", "/d", 0, False, False, 3)),
    (krun.krun_set_root_disk_remount, ("/dev/vda", None, None)),  # no disk was added
    (krun.krun_set_mapped_volumes, (["/a:/b"],)),
    (krun.krun_add_virtiofs2, ("tag", "/", 1 << 64)),
    (krun.krun_fs_add_overlay_file, (ROOT, "f", None, 1, 0o644, False)),
    (krun.krun_fs_add_overlay_file, (ROOT, "f", b"ab", 3, 0o644, False)),
    (krun.krun_fs_add_overlay_file, (ROOT, "f", "text", 3, 0o644, False)),
    (krun.krun_add_net_unixstream, ("/s", 3, MAC, 0, 0)),
    (krun.krun_add_net_unixstream, (None, -1, MAC, 0, 0)),
    (krun.krun_add_net_unixstream, ("/s", -1, MAC, 1 << 2, 0)),
    (krun.krun_add_net_unixstream, ("/s", -1, MAC, 0, 1)),
    (krun.krun_add_net_unixstream, ("/s", -1, None, 0, 0)),
    (krun.krun_add_net_unixstream, ("/s", -1, MAC[:5], 0, 0)),
    (krun.krun_add_net_unixgram, ("/s", 3, MAC, 0, 0)),
    (krun.krun_add_net_unixgram, (None, -1, MAC, 0, 0)),
    (krun.krun_add_net_unixgram, ("/s", -1, MAC, 1 << 3, 0)),
    (krun.krun_add_net_unixgram, ("/s", -1, MAC, 0, 4)),
    (krun.krun_add_net_tap, ("tap0", MAC, 1 << 7, 0)),  # GUEST_TSO4 without GUEST_CSUM
    (krun.krun_add_net_tap, ("tap0", MAC, 1 << 10, 0)),
    (krun.krun_add_net_tap, ("tap0", MAC, 1 << 31, 0)),
    (krun.krun_add_net_tap, ("tap0", MAC, 0, 1)),
    (krun.krun_add_net_tap, ("tap0", None, 0, 0)),
    (krun.krun_set_passt_fd, (-1,)),
    (krun.krun_set_net_mac, (None,)),
    (krun.krun_set_port_map, (["80"],)),
    (krun.krun_set_port_map, (["80:80:80"],)),
    (krun.krun_set_port_map, (["80:x"],)),
    (krun.krun_set_port_map, (["-1:80"],)),
    (krun.krun_set_port_map, (["65536:80"],)),
    (krun.krun_set_port_map, (["0:80"],)),
    (krun.krun_set_port_map, (["80:80", "80:81"],)),
    (krun.krun_set_port_map, (["80:80", "81:80"],)),
    (krun.krun_add_vsock, (4,)),
    (krun.krun_add_vsock_port2, (1, "/etc/passwd/x", True)),
    (krun.krun_add_vsock_port, (1 << 32, "/s")),
    (krun.krun_add_console_port_tty, (0, "", -1)),
    (krun.krun_add_console_port_inout, (0, "", 0, 1)),  # no such console
    (krun.krun_add_console_port_inout, (1 << 31, "", 0, 1)),
    (krun.krun_set_exec, ("/bin/true", [], ["=b"])),
    (krun.krun_set_kernel, ("/dev/null", 6, None, None)),
    (krun.krun_set_kernel, ("/no/such/kernel", 1, None, None)),
    (krun.krun_set_kernel, ("/dev/null", 1, "/no/such/initramfs", None)),
    (krun.krun_set_firmware, ("/no/such/firmware",)),
    (krun.krun_add_vhost_user_device, (4, "", None, 0, None)),
    (krun.krun_add_vhost_user_device, (4, "/s", None, 2, [256])),
    (krun.krun_add_vhost_user_device, (4, "/s", None, 1 << 16, None)),
]
"""Other arguments that cannot be, for a context to which nothing was added."""


def name_of(value: object) -> str:
    return getattr(value, "__name__", "")


def with_argument(arguments: tuple[object, ...], index: int, value: object) -> tuple[object, ...]:
    return (*arguments[:index], value, *arguments[index + 1 :])


@pytest.mark.parametrize(("function", "arguments", "index"), TEXTS, ids=name_of)
@pytest.mark.parametrize("wrong", [None, NOT_UTF8, "a\0b", b"a\0", "\udcff", 7])
def test_a_text_has_to_be_utf8(
    shared_ctx: int, function: Function, arguments: tuple[object, ...], index: int, wrong: object
) -> None:
    assert function(shared_ctx, *with_argument(arguments, index, wrong)) == -errno.EINVAL
    assert function(GONE, *with_argument(arguments, index, wrong)) == -errno.EINVAL  # arguments come first


@pytest.mark.parametrize(("function", "arguments", "index"), OPTIONAL, ids=name_of)
def test_an_optional_text_too(shared_ctx: int, function: Function, arguments: tuple[object, ...], index: int) -> None:
    assert function(shared_ctx, *arguments) == -errno.EINVAL
    assert function(shared_ctx, *with_argument(arguments, index, "\0")) == -errno.EINVAL


@pytest.mark.parametrize(("function", "arguments", "index", "optional"), ARRAYS, ids=name_of)
def test_an_array_has_texts(
    shared_ctx: int, function: Function, arguments: tuple[object, ...], index: int, optional: bool
) -> None:
    wrongs: list[object] = [[b"\xff"], ["A=\0"], ["A=b"] * 4097, [7], "text", 7]
    for wrong in wrongs if optional else [None, *wrongs]:
        assert function(shared_ctx, *with_argument(arguments, index, wrong)) == -errno.EINVAL, wrong


@pytest.mark.parametrize(("function", "arguments"), CONTEXTS, ids=name_of)
@pytest.mark.parametrize("gone", [GONE, -1, 1 << 40])
def test_an_unknown_context(function: Function, arguments: tuple[object, ...], gone: int) -> None:
    assert function(gone, *arguments) == -errno.ENOENT


@pytest.mark.parametrize(("function", "arguments"), INVALID, ids=name_of)
def test_arguments_that_cannot_be(shared_ctx: int, function: Function, arguments: tuple[object, ...]) -> None:
    assert function(shared_ctx, *arguments) == -errno.EINVAL


@pytest.mark.parametrize(("function", "arguments"), UNSUPPORTED, ids=name_of)
def test_what_is_not_supported_says_so_in_one_line(
    shared_ctx: int, function: Function, arguments: tuple[object, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="pykrun.krun"):
        assert function(shared_ctx, *arguments) == -errno.ENOTSUP
    assert [(record.name, record.levelno) for record in caplog.records] == [("pykrun.krun", logging.WARNING)]
    assert name_of(function) in caplog.text
    assert "not supported: " in caplog.text


@pytest.mark.parametrize(
    ("function", "arguments"), [(krun.krun_set_gpu_options, (0,)), (krun.krun_set_gpu_options2, (0, 0))], ids=name_of
)
def test_a_gpu_is_accepted_and_not_there(
    shared_ctx: int, function: Function, arguments: tuple[object, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="pykrun.krun"):
        assert function(shared_ctx, *arguments) == 0
    assert len(caplog.records) == 1
    assert krun.krun_has_feature(2) == 0


def test_every_failure_is_one_line_of_the_log(shared_ctx: int, caplog: pytest.LogCaptureFixture) -> None:
    for function, arguments in INVALID:
        caplog.clear()
        function(shared_ctx, *arguments)
        assert [record.levelno for record in caplog.records] == [logging.ERROR], (function, arguments)


def test_a_wrong_number_of_arguments_is_the_callers_mistake(shared_ctx: int) -> None:
    with pytest.raises(TypeError):
        krun.krun_set_root(shared_ctx)  # type: ignore[call-arg]  # on purpose
    with pytest.raises(TypeError):
        krun.krun_create_ctx(1)  # type: ignore[call-arg]  # on purpose


# -- what depends on what came before --------------------------------------------------------------------------


def test_overlays(ctx: int) -> None:
    def file(path: str) -> int:
        return krun.krun_fs_add_overlay_file(ctx, ROOT, path, b"x", 1, 0o644, False)

    def directory(path: str) -> int:
        return krun.krun_fs_add_overlay_dir(ctx, ROOT, path, 0o755)

    assert file("f") == -errno.ENOENT  # no such tag
    assert krun.krun_add_virtiofs(ctx, ROOT, None) == 0
    assert krun.krun_fs_add_overlay_dir(ctx, "other", "d", 0o755) == -errno.ENOENT
    for wrong in ("", "/", "a/", "/a//b", "//a", ".", "d/..", "x" * 256):
        assert file(wrong) == directory(wrong) == -errno.EINVAL, wrong
    assert file("d/f") == -errno.ENOENT
    assert directory("d") == 0
    assert file("/d/f") == 0
    assert file("d/f") == directory("d/f") == -errno.EEXIST
    assert directory("d") == file("d") == -errno.EEXIST
    assert file("d/f/g") == directory("d/f/g") == -errno.ENOTDIR
    assert file("init.krun") == -errno.EEXIST  # the implicit one
    assert file("init.krun/f") == -errno.ENOTDIR
    assert krun.krun_fs_add_overlay_file(ctx, ROOT, "empty", None, 0, 0o644, False) == 0


def test_an_init_of_ones_own(ctx: int) -> None:
    assert krun.krun_disable_implicit_init(ctx) == 0
    assert krun.krun_set_root(ctx, "/") == 0
    assert krun.krun_fs_add_overlay_file(ctx, ROOT, "init.krun", b"x", 1, 0o755, True) == 0


def test_the_implicit_init_is_disabled_before_the_root_is_set(ctx: int) -> None:
    assert krun.krun_set_root(ctx, "/") == 0
    assert krun.krun_disable_implicit_init(ctx) == 0
    assert krun.krun_fs_add_overlay_file(ctx, ROOT, "init.krun", b"x", 1, 0o755, True) == -errno.EEXIST


def test_a_root_disk_needs_a_disk_and_no_root(ctx: int) -> None:
    assert krun.krun_set_root_disk(ctx, "/d") == 0  # the old functions do not count
    assert krun.krun_set_root_disk_remount(ctx, "/dev/vda", None, None) == -errno.EINVAL
    assert krun.krun_add_disk(ctx, "d", "/d", False) == 0
    assert krun.krun_set_root_disk_remount(ctx, "/dev/vda", "auto", "ro") == 0
    assert krun.krun_set_root_disk_remount(ctx, "/dev/vda", "auto", "ro") == -errno.EINVAL  # there is one now
    for name in ("dev", "proc", "sys", "newroot"):
        assert krun.krun_fs_add_overlay_dir(ctx, ROOT, name, 0o755) == -errno.EEXIST


def test_a_root_disk_and_a_root_file_system(ctx: int) -> None:
    assert krun.krun_add_disk(ctx, "d", "/d", False) == 0
    assert krun.krun_set_root(ctx, "/") == 0
    assert krun.krun_set_root_disk_remount(ctx, "/dev/vda", None, None) == -errno.EINVAL


def test_vsock(ctx: int, tmp_path: Path) -> None:
    assert krun.krun_add_vsock(ctx, 0) == -errno.EEXIST  # the implicit one
    assert krun.krun_add_vsock_port2(ctx, 1, str(tmp_path), True) == -errno.EEXIST
    assert krun.krun_add_vsock_port2(ctx, 1, str(tmp_path / "socket"), True) == 0
    assert krun.krun_disable_implicit_vsock(ctx) == 0
    assert krun.krun_add_vsock_port(ctx, 1, "/s") == -errno.ENODEV
    assert krun.krun_add_vsock_port2(ctx, 1, str(tmp_path), True) == -errno.EEXIST  # before ENODEV
    assert krun.krun_set_port_map(ctx, ["80:80"]) == -errno.ENODEV
    assert krun.krun_add_vsock(ctx, 4) == -errno.EINVAL
    assert krun.krun_add_vsock(ctx, 1) == 0
    assert krun.krun_add_vsock(ctx, 0) == -errno.EEXIST
    assert krun.krun_add_vsock_port(ctx, 1, "/s") == 0
    assert krun.krun_set_port_map(ctx, ["80:80"]) == 0


def test_a_port_map_and_network_devices(ctx: int) -> None:
    assert krun.krun_set_port_map(ctx, []) == 0
    assert krun.krun_add_net_unixstream(ctx, None, 0, MAC, 0, 2) == 0
    assert krun.krun_set_port_map(ctx, ["80:80"]) == -errno.EINVAL
    assert krun.krun_set_passt_fd(ctx, 0) == -errno.EINVAL
    assert krun.krun_set_gvproxy_path(ctx, "/s") == -errno.EINVAL
    assert krun.krun_add_net_unixgram(ctx, "/s", -1, MAC, 0x4C83, 3) == 0


def test_a_port_map_and_the_old_functions(ctx: int) -> None:
    assert krun.krun_set_passt_fd(ctx, 0) == 0
    assert krun.krun_set_gvproxy_path(ctx, "/s") == 0  # the last one counts
    assert krun.krun_set_net_mac(ctx, MAC) == 0
    assert krun.krun_set_port_map(ctx, ["80:80"]) == -errno.EINVAL


def test_consoles(ctx: int) -> None:
    main, terminal = os.openpty()
    read, write = os.pipe()
    try:
        assert krun.krun_set_console_output(ctx, "/o") == 0
        assert krun.krun_set_console_output(ctx, "/o") == -errno.EINVAL
        assert krun.krun_add_virtio_console_default(ctx, 0, 1, 2) == 0  # takes the id 0
        assert krun.krun_add_virtio_console_multiport(ctx) == 1
        assert krun.krun_add_console_port_tty(ctx, 1, "t", terminal) == 0
        assert krun.krun_add_console_port_tty(ctx, 1, None, read) == -errno.ENOTTY
        assert krun.krun_add_console_port_tty(GONE, 1, None, read) == -errno.ENOTTY  # before ENOENT
        assert krun.krun_add_console_port_tty(GONE, 1, None, terminal) == -errno.ENOENT
        assert krun.krun_add_console_port_inout(ctx, 1, "p", read, write) == 0
        for other in (0, 2):
            assert krun.krun_add_console_port_tty(ctx, other, "t", terminal) == -errno.EINVAL
            assert krun.krun_add_console_port_inout(ctx, other, "p", read, write) == -errno.EINVAL
    finally:
        for fd in (main, terminal, read, write):
            os.close(fd)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [((0, 3, 0, 0), 22), ((-2, 3, 0, 0), 22), ((2, 3, 3, 0), 22), ((2, 3, 0, 2), 22), ((987_654, 3, 0, 0), 9)],
)
def test_init_log(arguments: tuple[int, int, int, int], number: int) -> None:
    assert krun.krun_init_log(*arguments) == -number


def test_queries() -> None:
    assert krun.krun_has_feature(3) == krun.krun_has_feature(12) == krun.krun_has_feature(-1) == -errno.EINVAL
    assert [krun.krun_has_feature(feature) for feature in (0, 1, 2, 4, 6, 7, 8, 9, 10, 11)] == [
        *(1, 1, 0, 0, 0, 0, 0, 0, 0, 1)
    ]
    assert krun.krun_check_nested_virt() in (0, 1)
    assert 1 <= krun.krun_get_max_vcpus() <= 255


# -- the start -------------------------------------------------------------------------------------------------


def test_the_start_consumes_the_context(ctx: int) -> None:
    assert krun.krun_start_enter(ctx) == -errno.EINVAL  # there is no root
    assert krun.krun_start_enter(ctx) == krun.krun_free_ctx(ctx) == krun.krun_set_root(ctx, "/") == -errno.ENOENT


@pytest.mark.parametrize(
    "configure",
    [
        lambda ctx: krun.krun_set_root(ctx, "/no/such/directory"),
        lambda ctx: krun.krun_set_root(ctx, "/etc/passwd"),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_add_virtiofs(ctx, "tag", "/no/such/directory"),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_add_virtiofs(ctx, "", "/"),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_add_virtiofs(ctx, "t" * 37, "/"),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_add_disk(ctx, "d", "/no/such/disk", False),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_add_disk(ctx, "d", "/etc", False),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_add_disk2(ctx, "d", "/dev/null", 2, False),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_set_vm_config(ctx, 1, 1),
        lambda ctx: krun.krun_set_root(ctx, "/") or krun.krun_set_vm_config(ctx, 1, (1 << 32) - 1),
    ],
)
def test_what_cannot_be_started_returns(ctx: int, configure: Callable[[int], int]) -> None:
    assert configure(ctx) == 0
    assert krun.krun_start_enter(ctx) == -errno.EINVAL


def test_an_engine_that_is_not_known(ctx: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYKRUN_ENGINE", "abacus")
    assert krun.krun_set_root(ctx, "/") == 0
    assert krun.krun_start_enter(ctx) == -errno.EINVAL
