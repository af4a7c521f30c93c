"""FreeBSD's init against a recording of its kernel: the order, and what happens when a step fails."""

from __future__ import annotations

import base64
import errno
import json
import os
import posix
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krun_init.errors import InitError
from krun_init.version import VERSION
from tests.guest.freebsd import Exited, Lines, Recording

from krun_init import (  # isort: skip - after the recording, which brings the seam
    freebsd,
    freebsd_config,
    freebsd_console,
    freebsd_ending,
    freebsd_kenv,
    freebsd_network,
    freebsd_system,
)

CONSOLE, NULL, LOG = "/dev/console", "/dev/null", "/init.log"


@pytest.fixture
def system(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


# -- console -------------------------------------------------------------------------------------------------------


def test_console_step_by_step(system: Recording) -> None:
    assert freebsd_console.take(system)
    assert system.calls == [
        ("revoke", CONSOLE),
        ("open", CONSOLE, posix.O_RDWR | posix.O_NONBLOCK),
        ("make_blocking", 0),
        ("setsid",),
        ("ioctl", 0, 0x20007461, 0),
        ("keep", 0),  # the kernel starts init without descriptors
        ("dup2", 0, 1),
        ("dup2", 0, 2),
    ]
    assert system.streams == [CONSOLE] * 3
    assert system.descriptors.keys() == {0, 1, 2}


def test_console_where_something_is_open(tmp_path: Path) -> None:
    system = Recording(tmp_path, {0: "a", 1: "b", 2: "c"})
    assert freebsd_console.take(system)
    assert system.calls[-4:] == [("dup2", 3, 0), ("dup2", 3, 1), ("dup2", 3, 2), ("close", 3)]
    assert system.streams == [CONSOLE] * 3
    assert system.descriptors.keys() == {0, 1, 2}


@pytest.mark.parametrize("step", ["revoke", "make_blocking", "setsid", "ioctl"])
def test_console_without_one_of_its_steps(system: Recording, step: str) -> None:
    system.failures[step] = errno.EPERM
    assert freebsd_console.take(system)
    assert system.streams == [CONSOLE] * 3


def test_without_console_the_null_device_and_a_file(system: Recording) -> None:
    system.failures["open", CONSOLE] = errno.ENXIO
    assert not freebsd_console.take(system)
    assert system.calls[2:] == [
        ("open", NULL, posix.O_RDWR),
        ("keep", 0),
        ("open", LOG, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT, 0o644),
        ("keep", 1),
        ("dup2", 1, 2),
    ]
    assert system.streams == [NULL, LOG, LOG]


def test_without_console_and_file_1_and_2_follow_0(system: Recording) -> None:
    system.failures |= {("open", CONSOLE): errno.ENXIO, ("open", LOG): errno.EROFS}
    assert not freebsd_console.take(system)
    assert system.streams == [NULL] * 3


def test_without_console_and_null_device(tmp_path: Path) -> None:
    system = Recording(tmp_path, {0: "a", 1: "b", 2: "c"})
    system.failures |= {("open", CONSOLE): errno.ENXIO, ("open", NULL): errno.ENOENT}
    assert not freebsd_console.take(system)
    assert system.streams == ["a", LOG, LOG]
    assert system.descriptors.keys() == {0, 1, 2}


def test_without_anything(system: Recording) -> None:
    system.failures["open"] = errno.ENOENT
    assert not freebsd_console.take(system)
    assert system.streams == [None] * 3


def test_session_and_login_name(system: Recording) -> None:
    freebsd_console.begin_session(system)
    assert system.calls == [("setsid",), ("ioctl", 0, 0x20007461, 1), ("setlogin", "root")]


@pytest.mark.parametrize("step", ["setsid", "ioctl", "setlogin"])
def test_session_without_one_of_its_steps(system: Recording, step: str) -> None:
    system.failures[step] = errno.EPERM
    freebsd_console.begin_session(system)
    assert system.names() == ["setsid", "ioctl", "setlogin"]


def test_console_for_the_last_words_is_taken_from_nobody(tmp_path: Path) -> None:
    system = Recording(tmp_path, {0: "dead", 1: "dead", 2: "dead"})
    freebsd_console.take_back(system)
    assert system.made("open") == [(CONSOLE, posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOCTTY)]
    assert not {"revoke", "setsid", "ioctl"} & set(system.names())
    assert system.descriptors == {0: "dead", 1: CONSOLE, 2: CONSOLE}
    system.failures["open"] = errno.ENXIO
    freebsd_console.take_back(system)


# -- the kernel's environment --------------------------------------------------------------------------------------

IMPORTED = [
    "HOSTNAME",
    "KRUN_CONFIG",
    "KRUN_HOME",
    "KRUN_INIT",
    "KRUN_INIT_PID1",
    "KRUN_RLIMITS",
    "KRUN_TERM",
    "KRUN_WORKDIR",
]


def test_variables_that_are_imported(system: Recording) -> None:
    assert freebsd_kenv.variables(system) == {}
    assert [name for (name,) in system.made("kenv")] == IMPORTED
    system.variables = dict.fromkeys([*IMPORTED, "KRUN_DHCP", "init_path"], b"v")
    assert freebsd_kenv.variables(system) == {name.encode(): b"v" for name in IMPORTED}


@pytest.mark.parametrize("name", [*IMPORTED, "KRUN_INIT_ARGV0"])
def test_variable_as_long_as_can_be_and_longer(system: Recording, name: str) -> None:
    read = freebsd_kenv.words if name == "KRUN_INIT_ARGV0" else freebsd_kenv.variables
    system.variables[name] = b"x" * 127 + b"A"
    read(system)
    system.variables[name] = b"x" * 129
    with pytest.raises(InitError, match=f"kernel variable {name} has more than 128 bytes"):
        read(system)


def test_variable_that_cannot_be_had(system: Recording) -> None:
    system.failures["kenv", "KRUN_INIT"] = errno.EPERM
    with pytest.raises(InitError, match="kernel variable KRUN_INIT: Operation not permitted"):
        freebsd_kenv.variables(system)


# -- words ---------------------------------------------------------------------------------------------------------


def set_words(system: Recording, words: list[bytes], size: int = 128) -> None:
    text = base64.b64encode(b"\0".join(words))
    for index, start in enumerate(range(0, max(1, len(text)), size)):
        system.variables[f"KRUN_INIT_ARGV{index}"] = text[start : start + size]


WORDS = st.lists(st.binary(max_size=60).map(lambda word: word.replace(b"\0", b"")), min_size=1, max_size=20)


@given(words=WORDS, size=st.integers(1, 128))
def test_words_arrive_whatever_the_chunks_are(words: list[bytes], size: int) -> None:
    system = Recording(Path("/nowhere"))
    size = max(size, len(base64.b64encode(b"\0".join(words))) // 32 + 1)
    set_words(system, words, size)
    found = freebsd_kenv.words(system)
    assert found is not None
    assert [os.fsencode(word) for word in found] == words


def test_no_words(system: Recording) -> None:
    assert freebsd_kenv.words(system) is None
    system.variables["KRUN_INIT_ARGV0"] = b""  # one, which is empty
    assert freebsd_kenv.words(system) == [""]


@pytest.mark.parametrize(("present", "missing"), [([1], 0), ([0, 2], 1), ([0, 1, 2, 31], 3)])
def test_words_with_a_gap(system: Recording, present: list[int], missing: int) -> None:
    system.variables = {f"KRUN_INIT_ARGV{index}": b"QUJD" for index in present}
    with pytest.raises(InitError, match=f"KRUN_INIT_ARGV{missing} is missing, but one behind it is there"):
        freebsd_kenv.words(system)


def test_as_many_chunks_as_can_be_and_more(system: Recording) -> None:
    system.variables = {f"KRUN_INIT_ARGV{index}": b"QUJD" for index in range(32)}
    assert freebsd_kenv.words(system) == ["ABC" * 32]
    system.variables["KRUN_INIT_ARGV32"] = b"QUJD"
    with pytest.raises(InitError, match="KRUN_INIT_ARGV32: there can be 32 chunks"):
        freebsd_kenv.words(system)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"QUJ", "groups of four"),
        (b"QUJDR", "groups of four"),
        (b"Q===", "groups of four"),
        (b"====", "groups of four"),
        (b"QU D", "no base64 (character 2)"),
        (b"QU=D", "no base64 (character 2)"),
        (b"QU-_", "no base64 (character 2)"),
        (b"QR==", "mean nothing"),
        (b"QUJDQUF=", "mean nothing"),
    ],
)
def test_no_base64(system: Recording, text: bytes, reason: str) -> None:
    system.variables = {"KRUN_INIT_ARGV0": text[:2], "KRUN_INIT_ARGV1": text[2:]}
    with pytest.raises(InitError) as caught:
        freebsd_kenv.words(system)
    assert str(caught.value).startswith("kernel variables KRUN_INIT_ARGV0 to 1: ")
    assert reason in str(caught.value)


@given(st.binary(max_size=200))
def test_base64(data: bytes) -> None:
    assert freebsd_kenv.decode(base64.b64encode(data)) == data


# -- configuration -------------------------------------------------------------------------------------------------


def read_config(system: Recording, **words: str) -> tuple[Any, list[str]]:
    log = Lines()
    return freebsd_config.read(system, words, log), log.lines


def test_configuration_disk(system: Recording) -> None:
    system.disk_content = b'{"Cmd": ["from", "disk"]}'
    Path(system.config).write_text('{"Cmd": ["root"]}')
    conf, lines = read_config(system)
    assert (conf.argv, lines) == (["from", "disk"], [])
    options = [("fstype", "cd9660"), ("fspath", "/mnt"), ("from", "/dev/iso9660/KRUN_CONFIG")]
    assert system.calls == [("mkdir", "/mnt", 0o755), ("nmount", options, 1), ("unmount", "/mnt", 0)]
    assert freebsd_system.Facts.disk_config == "/mnt/krun_config.json"


def test_named_file_wins_over_the_disk(system: Recording, tmp_path: Path) -> None:
    system.disk_content = b'{"Cmd": ["disk"]}'
    (tmp_path / "named").write_text('{"Cmd": ["named"]}')
    assert read_config(system, KRUN_CONFIG=str(tmp_path / "named"))[0].argv == ["named"]
    assert read_config(system, KRUN_CONFIG=str(tmp_path / "missing"))[0].argv == []
    assert read_config(system, KRUN_CONFIG="")[0].argv == []
    assert system.calls == []


def test_no_disk(system: Recording) -> None:
    assert read_config(system)[0].argv == []
    Path(system.config).write_text('{"Cmd": ["root"]}')
    assert read_config(system)[0].argv == ["root"]
    assert "unmount" not in system.names()
    assert freebsd_system.Facts.config == "/.krun_config.json"


def test_folder_of_the_disk_is_there_or_cannot_be_made(system: Recording) -> None:
    system.disk_content = b'{"Cmd": ["disk"]}'
    for number in (errno.EEXIST, errno.EROFS):
        system.failures["mkdir"] = number
        assert read_config(system)[0].argv == ["disk"]


def test_disk_without_the_file(system: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    system.disk_content = b""
    monkeypatch.setattr(system, "_on_nmount", lambda options, flags: None)
    Path(system.config).write_text('{"Cmd": ["root"]}')
    assert read_config(system)[0].argv == ["root"]
    assert system.names() == ["mkdir", "nmount", "unmount"]


def test_disk_that_cannot_be_mounted(system: Recording) -> None:
    system.disk_content = b"{}"
    system.failures["nmount"] = errno.ENODEV
    with pytest.raises(InitError, match="cannot mount /dev/iso9660/KRUN_CONFIG on /mnt: No such device"):
        read_config(system)


def test_file_of_the_disk_that_cannot_be_read(system: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    system.disk_content = b""
    monkeypatch.setattr(system, "_on_nmount", lambda options, flags: os.mkdir(system.disk_config))
    monkeypatch.setattr(system, "_on_unmount", lambda target, flags: os.rmdir(system.disk_config))
    with pytest.raises(InitError, match="Is a directory"):
        read_config(system)
    assert system.names()[-1] == "unmount"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"{", "is not JSON"), (b'{"Cmd": 1}', "Cmd must be an array"), (b"[]", "must be an object")],
)
def test_disk_that_is_wrong_is_unmounted_all_the_same(system: Recording, content: bytes, reason: str) -> None:
    system.disk_content = content
    Path(system.config).write_text("{}")
    with pytest.raises(InitError, match=reason):
        read_config(system)
    assert system.names()[-1] == "unmount"


def test_disk_that_stays_mounted(system: Recording) -> None:
    system.disk_content = b'{"Cmd": ["disk"]}'
    system.failures["unmount"] = errno.EBUSY
    conf, lines = read_config(system)
    assert (conf.argv, lines) == (["disk"], ["/mnt stays mounted: Device or resource busy"])


def test_what_only_linux_guests_do_is_said(system: Recording) -> None:
    mounts = [{"type": "tmpfs", "source": "tmpfs", "destination": "/t"}]
    document = {"mounts": mounts, "process": {"args": ["a"], "capabilities": {"bounding": ["CAP_KILL"]}}}
    system.disk_content = json.dumps(document).encode()
    _conf, lines = read_config(system)
    assert [line.split(":")[0] for line in lines] == ["no tmpfs on /t", "capabilities are Linux's"]
    assert len(system.made("nmount")) == 1


# -- loopback ------------------------------------------------------------------------------------------------------


def test_loopback(system: Recording) -> None:
    freebsd_network.up(system)
    (flags, interface), (alias, address) = system.made("socket_ioctl")
    assert flags == 0x80206910
    assert interface == b"lo0".ljust(16, b"\0") + b"\1\0" + bytes(14)
    assert alias == 0x8044692B
    assert address[:16] == interface[:16]
    assert address[16:] == bytes([16, 2, 0, 0, 127, 0, 0, 1]).ljust(32, b"\0") + bytes([16, 2, 0, 0, 255]).ljust(
        20, b"\0"
    )


def test_no_loopback(system: Recording) -> None:
    system.failures["socket_ioctl"] = errno.ENXIO
    freebsd_network.up(system)


# -- where it is not PID 1 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), ([], 125), (["/bin/sh"], 125), (["-s"], 125)])
def test_not_pid_1(
    system: Recording, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    system.answers["getpid"] = 2
    monkeypatch.setattr("sys.argv", ["/init.krun", *arguments])
    assert freebsd.main(system) == code
    assert system.names() == ["getpid"]  # nothing is mounted, configured or rebooted
    out, err = capfd.readouterr()
    assert (out, err) == (f"krun_init {VERSION}, init of pykrun's microVMs\n", "") if code == 0 else "refused" in err


# -- the end -------------------------------------------------------------------------------------------------------


def test_end(system: Recording) -> None:
    system.answers["mounts"] = [
        ("ufs", "/dev/vtbd0p2", "/", 0x1000),
        ("devfs", "devfs", "/dev", 0x1000),
        ("cd9660", "/dev/vtbd1", "/media", 0x1001),
        ("msdosfs", "/dev/vtbd0p1", "/boot/efi", 0x1000),
    ]
    with pytest.raises(Exited, match="7"):
        freebsd_ending.end(freebsd.Ending(7), system, Lines())
    assert system.names() == ["end_processes", "sync", "mounts", "nmount", "nmount", "exit"]
    (first, flags), (second, _flags) = system.made("nmount")
    assert flags == 0x10000 | 0x80000 | 1
    assert first[:3] == [("fstype", "msdosfs"), ("fspath", "/boot/efi"), ("from", "/dev/vtbd0p1")]
    assert second == [
        ("fstype", "ufs"),
        ("fspath", "/"),
        ("from", "/dev/vtbd0p2"),
        ("update", None),
        ("ro", None),
    ]


@pytest.mark.parametrize("step", ["end_processes", "sync", "mounts", "nmount"])
def test_end_comes_whatever_fails(system: Recording, step: str) -> None:
    system.answers["mounts"] = [("ufs", "/dev/vtbd0p2", "/", 0)]
    system.failures[step] = errno.EIO
    log = Lines()
    with pytest.raises(Exited, match="7"):
        freebsd_ending.end(freebsd.Ending(7), system, log)
    assert log.lines == (["cannot make / read-only: Input/output error"] if step == "nmount" else [])
