"""`/.krun_config.json`: OCI's process, the flat form, Docker's form; and the options that say the same."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import pytest

from tests.boot.vm import Script, Vm, Word

STATUS, MOUNTS, LIMITS, ENVIRON = (f"/proc/self/{name}" for name in ("status", "mounts", "limits", "environ"))
HOSTNAME = "/proc/sys/kernel/hostname"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


class Surroundings:
    """Reads what a process can find out about itself, with `/tool ops`."""

    def __init__(self) -> None:
        self.script = Script()
        self._files = {name: self.script.read(name) for name in (STATUS, MOUNTS, LIMITS, ENVIRON, HOSTNAME)}
        self._cwd = self.script.call("readlink", "/proc/self/cwd")

    @property
    def words(self) -> list[str]:
        return ["/tool", "ops", *map(str, self.script.words)]

    def status(self, field: str) -> list[bytes]:
        for line in self._files[STATUS].data.splitlines():
            if line.startswith(field.encode() + b":"):
                return line.split()[1:]
        raise AssertionError(field)

    def mount(self, target: str) -> tuple[bytes, set[bytes]]:
        """Type and options of the last mount there."""
        lines = [line.split() for line in self._files[MOUNTS].data.splitlines()]
        kind, options = [(line[2], line[3]) for line in lines if line[1] == target.encode()][-1]
        return kind, set(options.split(b","))

    def limit(self, name: str) -> list[bytes]:
        """Soft and hard."""
        for line in self._files[LIMITS].data.splitlines():
            if line.startswith(f"Max {name} ".encode()):
                return line.removeprefix(f"Max {name} ".encode()).split()[:2]
        raise AssertionError(name)

    @property
    def hostname(self) -> bytes:
        return self._files[HOSTNAME].data.rstrip(b"\n")

    @property
    def environment(self) -> set[bytes]:
        return set(self._files[ENVIRON].data.split(b"\0")[:-1])

    @property
    def cwd(self) -> bytes:
        return self._cwd.data

    def run(self, vm: Vm, *words: Word) -> None:
        result = vm.run(*words)
        assert (result.code, result.err) == (0, b""), result
        self.script.fill(result.out)


def test_oci_process(vm: Vm, config: Path) -> None:
    seen = Surroundings()
    made = [seen.script.call("open", path, "excl") for path in ("/scratch/a", "/small/b", "/deep/er/c")]
    modes = [seen.script.call("stat", path) for path in ("/scratch", "/small")]
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    process = {
        "args": seen.words,
        "env": ["FROM=config", "HOME=/from/config", "TERM=config-term", "PATH=/config/bin"],
        "cwd": "/work",
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 77], "umask": 0o027},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "noNewPrivileges": True,
        "capabilities": dict.fromkeys(sets, capabilities),
    }
    mounts = [
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=2m", "mode=1777"]},
        {"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["noexec", "ro", "size=64k"]},
        {"destination": "/deep/er", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0777", "exec", "suid"]},
        {"destination": "/proc", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/bound", "type": "bind", "source": "/etc"},
    ]
    document = {"ociVersion": "1.0.2", "process": process, "hostname": "oci-host", "mounts": mounts}
    config.write_text(json.dumps(document))
    folders = ["--dir", "/work", "--dir", "/scratch", "--dir", "/small", "--dir", "/deep/er"]
    seen.run(vm, "--secret", f"/.krun_config.json={config}", *folders)
    assert seen.status("Uid") == [b"1000"] * 4
    assert seen.status("Gid") == [b"1001"] * 4
    assert set(seen.status("Groups")) - {b"1001"} == {b"5", b"77"}
    assert seen.status("Umask") == [b"0027"]
    assert seen.status("NoNewPrivs") == [b"1"]
    mask = b"%016x" % (1 << 0 | 1 << 5 | 1 << 10)
    for name in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert seen.status(name) == [mask], name
    assert (seen.cwd, seen.hostname) == (b"/work", b"oci-host")
    assert seen.environment == {b"FROM=config", b"HOME=/from/config", b"TERM=config-term", b"PATH=/config/bin"}
    assert [outcome.value for outcome in made] == [0, -errno.EROFS, 0]
    assert [int(outcome.data.split()[0], 8) & 0o7777 for outcome in modes] == [0o1777, 0o1777]
    kind, options = seen.mount("/scratch")
    assert kind == b"tmpfs"
    assert {b"nosuid", b"nodev", b"noexec", b"size=2048k"} <= options
    kind, options = seen.mount("/small")
    assert {b"ro", b"noexec", b"size=64k"} <= options
    kind, options = seen.mount("/deep/er")
    assert kind == b"tmpfs"
    assert not {b"noexec", b"nosuid"} & options
    assert seen.mount("/proc")[0] == b"proc"
    assert seen.limit("open files") == [b"100", b"200"]
    assert seen.limit("core file size") == [b"0", b"0"]


@pytest.mark.parametrize(
    ("arguments", "environment", "directory"), [("args", "env", "cwd"), ("Cmd", "Env", "WorkingDir")]
)
def test_flat_config(vm_once: Vm, config: Path, arguments: str, environment: str, directory: str) -> None:
    seen = Surroundings()
    document = {arguments: seen.words, environment: ["A=1", "HOME=/flat", "KRUN_INIT=/evil"], directory: "/work"}
    config.write_text(json.dumps(document))
    seen.run(vm_once, "--secret", f"/.krun_config.json={config}", "--dir", "/work")
    assert seen.cwd == b"/work"
    assert {b"A=1", b"HOME=/flat", b"KRUN_INIT=/evil"} <= seen.environment


def test_docker_config_with_entrypoint(vm_once: Vm, config: Path) -> None:
    document = {"Entrypoint": ["/tool", "argv"], "Cmd": ["a", "", "b c"], "Env": ["A=1"], "WorkingDir": "/"}
    config.write_text(json.dumps(document))
    result = vm_once.run("--secret", f"/.krun_config.json={config}")
    assert (result.code, result.lines(), result.err) == (0, [b"a", b"", b"b c"], b"")


def test_command_line_wins_over_the_config(vm_once: Vm, config: Path) -> None:
    seen = Surroundings()
    document = {"args": ["/tool", "exit", "99"], "env": ["A=config", "B=config"], "cwd": "/"}
    config.write_text(json.dumps(document))
    options = ["--dir", "/work", "--workdir", "/work", "--env", "A=option", "--secret", f"/.krun_config.json={config}"]
    seen.run(vm_once, *options, "--", *seen.words)
    assert seen.cwd == b"/work"
    assert {b"A=option", b"B=config"} <= seen.environment


def test_options_for_the_surroundings(vm: Vm) -> None:
    seen = Surroundings()
    denied = seen.script.call("open", "/closed", "r")
    options = ["--user", "1234:5678", "--hostname", "named", "--rlimit", "NOFILE=64:128", "--dir", "/closed:0700"]
    seen.run(vm, *options, "--", *seen.words)
    assert seen.status("Uid") == [b"1234"] * 4
    assert seen.status("Gid") == [b"5678"] * 4
    assert set(seen.status("Groups")) <= {b"5678"}
    assert seen.status("CapEff") == [b"%016x" % 0]
    assert seen.hostname == b"named"
    assert seen.limit("open files") == [b"64", b"128"]
    assert denied.value == -errno.EACCES


def test_a_process_starts_clean(vm: Vm) -> None:
    """No signal blocked or ignored (Python ignores SIGPIPE), no stray descriptor, a process group of its own."""
    seen = Surroundings()
    stat = seen.script.read("/proc/self/stat")
    pid = seen.script.call("getpid")
    clock = seen.script.read("/proc/uptime")
    seen.run(vm, "--", *seen.words)
    zero = [b"%016x" % 0]
    assert [seen.status(name) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")] == [zero] * 5
    assert seen.status("Uid") == [b"0"] * 4
    assert seen.status("Umask") == [b"0022"]
    assert seen.status("Seccomp") == [b"0"]
    assert seen.hostname == b"localhost"
    assert seen.cwd == b"/"
    fields = stat.data.rpartition(b")")[2].split()
    assert int(fields[2]) == pid.value, "not the leader of its process group"
    assert float(clock.data.split()[0]) < 60
    result = vm.tool_run("fds")
    assert [line.split()[0] for line in result.out.splitlines()] == [b"0", b"1", b"2"]


def test_entropy_and_time(vm: Vm) -> None:
    """The guest never waits for randomness, gets other bytes each time, and has the host's clock."""
    runs = [vm.tool_run("entropy") for _ in range(2)]
    waited, randoms, clocks = zip(*(result.out.split() for result in runs), strict=True)
    assert max(map(int, waited)) < 1000
    assert randoms[0] != randoms[1]
    assert abs(int(clocks[1]) - time.time()) < 30
