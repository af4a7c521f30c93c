"""A VM whose root exists only in memory: what the guest sees of it."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import pytest

from tests.boot.vm import Outcome, Script, Vm

HELLO = "Hello from memory\n"
PATTERN = bytes((i * 7 + i // 256) & 0xFF for i in range(8192))


def names(outcome: Outcome) -> set[bytes]:
    assert outcome.value >= 0, outcome
    return set(outcome.data.split(b"\0")[:-1])


def attributes(outcome: Outcome) -> tuple[int, int, int]:
    """Mode, size and number of links."""
    assert outcome.value == 0, outcome
    mode, _uid, _gid, size, links, _block = outcome.data.split()
    return int(mode, 8), int(size), int(links)


@pytest.fixture
def pattern(tmp_path: Path) -> Path:
    path = tmp_path / "pattern"
    path.write_bytes(PATTERN)
    path.chmod(0o640)
    return path


def test_root_of_virtual_entries(vm: Vm, tmp_path: Path, pattern: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"Env": ["FROM_CONFIG=yes"]}')
    script = Script()
    spent = [script.call("open", path, "r") for path in ("/init.krun", "/prog", "/.krun_config.json")]
    spent.append(script.call("open", "/.krun_start.json", "r"))
    null = [script.call("write", "/dev/null", "gone"), script.read("/dev/null")]
    lists = {path: script.call("ls", path) for path in ("/dev", "/proc/self", "/sys/kernel", "/", "/nested", "/empty")}
    own, pid = script.call("readlink", "/proc/self"), script.call("getpid")
    texts = [script.read("/hello.txt") for _ in range(2)]
    patterns = [script.read("/pattern") for _ in range(2)]
    refused = [script.call("open", "/hello.txt", how) for how in ("w", "rw", "append", "wtrunc")]
    refused += [script.call("write", "/pattern", "x")]
    ranges = [(0, 256), (4000, 512), (8182, 10), (8182, 100), (8192, 10), (9000, 10), (1 << 40, 10), (0, 256)]
    parts = [script.call("pread", "/pattern", str(offset), str(size)) for offset, size in ranges]
    stats = {path: script.call("stat", path) for path in ("/hello.txt", "/pattern", "/nested/deep/inner", "/nested")}
    stats |= {path: script.call("stat", path) for path in ("/empty", "/closed")}
    inner = script.read("/nested/deep/inner")
    missing = [script.call("stat", path) for path in ("/nowhere", "/hello.txt/x", "/nested/nowhere")]
    changes = [
        script.call("open", "/hello.txt", "excl"),
        script.call("mkdir", "/nested"),
        script.call("unlink", "/hello.txt"),
        script.call("chmod", "/hello.txt", "0777"),
    ]
    again = script.read("/hello.txt")
    words = ["--secret", f"/prog={vm.tool}:0755", "--secret", f"/.krun_config.json={config}"]
    words += [
        "--text",
        f"/hello.txt={HELLO}",
        "--file",
        f"/pattern={pattern}",
        "--dir",
        "/empty",
        "--dir",
        "/closed:0700",
    ]
    result = vm.run(*words, "--text", "/nested/deep/inner=in there", "--", "/prog", "ops", *script.words)
    assert (result.code, result.err) == (0, b"")
    script.fill(result.out)

    assert [outcome.value for outcome in spent] == [-errno.ENOENT] * 4
    assert (null[0].value, null[1].value) == (4, 0)
    assert names(lists["/dev"]) >= {
        b".",
        b"..",
        b"null",
        b"zero",
        b"fd",
        b"stdin",
        b"stdout",
        b"stderr",
        b"pts",
        b"shm",
    }
    assert names(lists["/proc/self"]) >= {b"status", b"fd", b"environ"}
    assert len(names(lists["/sys/kernel"])) > 3
    assert own.data == str(pid.value).encode()
    shown = {b".", b"..", b"dev", b"proc", b"sys", b"hello.txt", b"pattern", b"nested", b"empty", b"closed", b"tool"}
    assert names(lists["/"]) == shown
    assert len(lists["/"].data.split(b"\0")) == len(shown) + 1, "an entry was listed twice"
    assert names(lists["/nested"]) == {b".", b"..", b"deep"}
    assert names(lists["/empty"]) == {b".", b".."}
    assert [outcome.data for outcome in texts] == [HELLO.encode()] * 2
    assert [outcome.data for outcome in patterns] == [PATTERN] * 2
    assert [outcome.value for outcome in refused] == [-errno.EACCES] * 5
    for (offset, size), part in zip(ranges, parts, strict=True):
        expected = PATTERN[offset : offset + size]
        assert (part.value, part.data) == (len(expected), expected), (offset, size)
    assert attributes(stats["/hello.txt"]) == (stat.S_IFREG | 0o644, len(HELLO), 1)
    assert attributes(stats["/pattern"]) == (stat.S_IFREG | 0o640, 8192, 1)
    assert attributes(stats["/nested/deep/inner"]) == (stat.S_IFREG | 0o644, 8, 1)
    assert attributes(stats["/nested"])[0] == stat.S_IFDIR | 0o755
    assert attributes(stats["/empty"])[0] == stat.S_IFDIR | 0o755
    assert attributes(stats["/closed"])[0] == stat.S_IFDIR | 0o700
    assert inner.data == b"in there"
    assert [outcome.value for outcome in missing] == [-errno.ENOENT, -errno.ENOTDIR, -errno.ENOENT]
    assert [outcome.value for outcome in changes] == [-errno.EEXIST, -errno.EEXIST, -errno.EPERM, -errno.EPERM]
    assert again.data == HELLO.encode()


@pytest.mark.parametrize("rounds", [200, pytest.param(1500, marks=pytest.mark.full)])
def test_one_of_two_racers_gets_a_one_shot_file(vm: Vm, tmp_path: Path, rounds: int) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 33)
    options: list[str] = ["--cpus", "2"] if vm.engine == "qemu" else []
    for number in range(rounds):
        options += ["--secret", f"/race/{number:04}={secret}"]
    result = vm.tool_run("race", str(rounds), options=options)
    assert (result.code, result.err) == (0, b"")
    outcomes = [tuple(sorted(map(int, line.split()))) for line in result.out.splitlines()]
    assert outcomes == [(-errno.ENOENT, 33)] * rounds


def test_one_shot_file_is_read_once_and_whole(vm_once: Vm, tmp_path: Path) -> None:
    big = bytes(range(256)) * 1200
    secret = tmp_path / "secret"
    secret.write_bytes(big)
    script = Script()
    seen_before = script.call("ls", "/run/secrets")
    first = script.read("/run/secrets/key")
    rest = [script.read("/run/secrets/key"), script.call("stat", "/run/secrets/key")]
    rest += [script.call("open", "/run/secrets/key", "create")]
    stat_only, after_stat = script.call("stat", "/run/secrets/plain"), script.read("/run/secrets/plain")
    options = ["--secret", f"/run/secrets/key={secret}", "--secret", f"/run/secrets/plain={secret}"]
    vm_once.script(script, *options, "--secret", f"/run/secrets/octal={secret}:0440")
    assert names(seen_before) == {b".", b".."}
    assert first.data == big
    assert [outcome.value for outcome in rest] == [-errno.ENOENT, -errno.ENOENT, -errno.EPERM]
    assert attributes(stat_only)[:2] == (stat.S_IFREG | 0o400, len(big))
    assert after_stat.value == -errno.ENOENT
