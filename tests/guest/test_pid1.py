"""Init as PID 1 of namespaces, with real pipes, processes, mounts and signals."""

from __future__ import annotations

import hashlib
import json
import os
import select
import struct
import time

import pytest

from tests.guest.machine import (
    CLOSE,
    CLOSE_OUTPUT,
    COUNTS,
    DONE,
    DRAINING,
    EXIT,
    HELLO,
    REBOOTED,
    RESIZE,
    SIGNAL,
    STARTED,
    STOP,
    TIME,
    Machine,
)

pytestmark = pytest.mark.root


def test_output_and_code_arrive(machine: Machine) -> None:
    machine.shell("echo out; echo err >&2; exit 42").run()
    assert (machine.stdout, machine.stderr) == (b"out\n", b"err\n")
    assert machine.exit == (42, 0, "")
    assert [kind for kind, _body in machine.frames] == [HELLO, STARTED, COUNTS, EXIT, DONE]
    assert struct.unpack("<QQ", machine.bodies(COUNTS)[0]) == (4, 4)
    assert machine.returncode == REBOOTED


@pytest.mark.parametrize(
    ("script", "ending"), [("kill -9 $$", (137, 9)), ("kill -11 $$", (139, 11)), ("exit 255", (255, 0))]
)
def test_endings(machine: Machine, script: str, ending: tuple[int, int]) -> None:
    assert machine.shell(script).run().exit[:2] == ending


def test_arguments_and_environment_arrive_byte_for_byte(machine: Machine) -> None:
    words = ["a b", "", "--", "-- 1 2", "quo\"te'", "new\nline", "\udcff\udc80", "é", "x" * 100_000]
    assert machine.start is not None
    machine.start["env"] = ["ODD=\udcfe = x", *(f"V{number}={number}" for number in range(500))]
    machine.shell('for word; do printf "%s\\0" "$word"; done; printf "%s|%s" "$ODD" "$V499"', *words).run()
    expected = b"".join(os.fsencode(word) + b"\0" for word in words) + b"\xfe = x|499"
    assert hashlib.sha256(machine.stdout).digest() == hashlib.sha256(expected).digest()


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [
        ("/missing", 127, "Couldn't execute '/missing': No such file or directory"),
        ("missing", 127, "Couldn't execute 'missing': No such file or directory"),
        ("/etc/plain", 126, "Couldn't execute '/etc/plain': Permission denied"),
        ("plain", 126, "Couldn't execute 'plain': Permission denied"),
        ("/etc/garbage", 126, "Couldn't execute '/etc/garbage': Exec format error"),
        ("/etc/plain/x", 126, "Couldn't execute '/etc/plain/x': Not a directory"),
        ("/bin", 126, "Couldn't execute '/bin': Permission denied"),
    ],
)
def test_what_cannot_be_executed(machine: Machine, program: str, code: int, reason: str) -> None:
    machine.text("/etc/plain", "echo no", 0o644)
    machine.text("/etc/garbage", "\x01\x02", 0o755)
    assert machine.start is not None
    machine.start.update(init=program, env=["PATH=/nowhere:/etc:/bin"])
    machine.run()
    assert machine.exit == (code, 0, reason)
    assert machine.returncode == REBOOTED
    assert not machine.bodies(STARTED)


def test_search_goes_on_after_what_may_not_be_executed(machine: Machine) -> None:
    machine.text("/etc/sh", "no", 0o644)
    assert machine.start is not None
    machine.start.update(init="sh", argv=["-c", "echo found"], env=["PATH=/etc:/bin"])
    assert machine.run().stdout == b"found\n"


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ({"workdir": "/missing"}, "working directory '/missing': No such file or directory"),
        ({"hostname": "x" * 65}, "host name"),
        ({"ports": ["krun-control", "other"]}, "virtio port other did not appear"),
        ({"terminal": True}, "cannot open the terminal /dev/hvc0"),
        ({"user": {"uid": -1}}, "/.krun_start.json: user.uid must be a number from 0"),
        ({"volumes": [{"tag": "t", "destination": "/v"}]}, "cannot mount volume t on /v"),
        (
            {"tmpfs": [{"destination": "/t", "options": ["size=potato"]}]},
            "cannot mount a tmpfs on /t: Invalid argument (options 'size=potato')",
        ),
        ({"tmpfs": [{"destination": "/bin/sh"}]}, "cannot mount a tmpfs on /bin/sh: Not a directory"),
        (
            {"tmpfs": [{"destination": "/sys/nodir"}]},
            "cannot mount a tmpfs on /sys/nodir: the directory is missing and cannot be made: Operation not permitted",
        ),
        (
            {"tmpfs": [{"destination": "/proc/nodir"}]},
            "cannot mount a tmpfs on /proc/nodir: the directory is missing and cannot be made: "
            "No such file or directory",
        ),
        (
            {"volumes": [{"tag": "t", "destination": "/sys/nodir"}]},
            "cannot mount volume t on /sys/nodir: the directory is missing and cannot be made: Operation not permitted",
        ),
        (
            {"rlimits": [[4, 0, 0], [7, 2000000, (1 << 64) - 1]]},
            "cannot start '/bin/sh': RLIMIT_NOFILE soft 2000000, hard unlimited: Operation not permitted",
        ),
    ],
)
def test_failures_are_125_with_a_reason(machine: Machine, start: dict[str, object], reason: str) -> None:
    machine.patience = 0.05
    machine.terminal = "/devices/hvc0" if "terminal" not in start else "/dev/hvc0"
    assert machine.start is not None
    machine.start.update(start)
    machine.shell("echo not reached").run()
    code, signal, text = machine.exit
    assert (code, signal) == (125, 0)
    assert reason in text
    assert "None" not in text
    assert machine.stdout == b""
    assert machine.returncode == REBOOTED


def test_pid_1_of_a_container_is_no_machine(machine: Machine) -> None:
    """It must refuse before it mounts anything: a container may share its mounts with the host."""
    machine.started_by_kernel = False
    machine.shell("echo not reached").run()
    refusal = b"krun_init: refused: this is the init of a virtual machine, it only runs as PID 1 there\n"
    assert machine.console == refusal + b"added []\n"
    assert machine.returncode == 125
    assert machine.frames == []
    assert machine.stdout == b""


def test_wrong_config_is_125(machine: Machine) -> None:
    machine.text("/.krun_config.json", '{"process": {"args": "sh"}}')
    machine.shell("echo not reached").run()
    assert machine.exit == (125, 0, "/.krun_config.json: process.args must be an array, not a string")


def test_failure_without_control_port_is_told_on_the_console(machine: Machine) -> None:
    machine.ports, machine.start = [], None
    machine.text("/.krun_config.json", "{")
    machine.run()
    assert b"init: /.krun_config.json is not JSON" in machine.console
    assert machine.returncode == REBOOTED


def test_plain_libkrun_host(machine: Machine) -> None:
    """No start data, no control port: words of the kernel command line, streams by dup2."""
    machine.start = None
    machine.ports = ["krun-stdin", "krun-stdout", "krun-stderr"]
    machine.stdin = b"line\n"
    machine.argv += ["-c", "read x; echo $x $HOME $KRUN_HOME $EXTRA; pwd; echo err >&2"]
    machine.environ.update(KRUN_INIT="/bin/sh", KRUN_WORKDIR="/proc", KRUN_HOME="/root", EXTRA="more")
    machine.run()
    assert machine.stdout == b"line /root more\n/proc\n"
    assert machine.stderr == b"err\n"


def test_a_console_is_enough(machine: Machine) -> None:
    """libkrun ends with 125 where the kernel has no /sys/class/virtio-ports."""
    machine.ports, machine.start = [], None
    machine.text("/.krun_config.json", '{"args": ["/bin/sh", "-c", "echo on the console; exit 5"]}')
    machine.run()
    assert machine.returncode == REBOOTED
    assert b"on the console" in machine.console
    assert b"init:" not in machine.console


def test_pid1_mode_is_no_fork(machine: Machine) -> None:
    assert machine.start is not None
    machine.start.update(pid1=True, streams="ports")
    machine.shell("echo pid $$; exit 42").run()
    assert machine.stdout == b"pid 1\n"
    assert machine.returncode == 42


def test_stdin_and_its_end(machine: Machine) -> None:
    machine.stdin = os.urandom(3_000_000)
    machine.shell("exec cat").run()
    assert machine.stdout == machine.stdin


def test_much_output_on_both_streams(machine: Machine) -> None:
    machine.shell("head -c 30000000 /dev/zero & head -c 20000000 /dev/zero >&2; wait").run(60)
    assert (len(machine.stdout), len(machine.stderr)) == (30_000_000, 20_000_000)
    assert struct.unpack("<QQ", machine.bodies(COUNTS)[0]) == (30_000_000, 20_000_000)


def test_last_bytes_reach_a_slow_reader(machine: Machine) -> None:
    machine.read_outputs = False
    machine.shell("head -c 3000000 /dev/zero; exit 3").boot()
    machine.drain_port("krun-stdout", 1.0)
    machine.wait()
    assert len(machine.stdout) == 3_000_000
    assert machine.exit[0] == 3


def test_closed_output_is_epipe(machine: Machine) -> None:
    machine.stdin_end = False
    machine.shell("trap '' PIPE; read go; echo x; echo code $? >&2").boot()
    machine.wait_for(STARTED)
    machine.send(CLOSE_OUTPUT, b"\x01")
    time.sleep(0.2)
    machine.feed(b"go\n")
    machine.wait_output("krun-stderr", b"code 1")
    assert machine.wait().stdout == b""


def test_workload_that_does_not_read(machine: Machine) -> None:
    machine.stdin, machine.stdin_end = b"x" * 2_000_000, True
    machine.shell("exec <&-; sleep 0.3; echo done").run()
    assert machine.stdout == b"done\n"
    assert machine.bodies(CLOSE) == [b"\x00"]


def test_background_process_does_not_hold_the_end(machine: Machine) -> None:
    machine.shell("sleep 1000 & yes >/dev/null & echo done").run(10)
    assert machine.stdout == b"done\n"
    assert machine.exit[0] == 0


def test_endless_background_writer_does_not_hold_the_end(machine: Machine) -> None:
    machine.shell("yes & exec sleep 0.1").run(20)
    assert machine.exit[0] == 0
    assert struct.unpack("<QQ", machine.bodies(COUNTS)[0])[0] == len(machine.stdout)


def test_orphans_are_reaped(machine: Machine) -> None:
    script = "for i in 1 2 3; do (sleep 0 & ) ; done; sleep 0.5; for s in /proc/[0-9]*/stat; do cat $s; done"
    output = machine.shell(script).run().stdout.decode()
    assert " S 0 " in output
    assert ") Z " not in output


def test_signal_frame_reaches_the_group(machine: Machine) -> None:
    machine.shell("trap 'echo usr1; exit 7' USR1; echo ready; while :; do sleep 0.05; done").boot()
    machine.wait_output("krun-stdout", b"ready")
    machine.send(SIGNAL, struct.pack("<I", 10))
    machine.wait()
    assert (machine.stdout, machine.exit[0]) == (b"ready\nusr1\n", 7)


STUBBORN = "trap 'echo term' TERM; echo ready; while :; do sleep 0.05; done"


def test_stop_frame_is_term_then_kill(machine: Machine) -> None:
    """TERM goes to the whole process group, at once."""
    machine.shell("(trap 'echo child; exit' TERM; while :; do sleep 0.02; done) & " + STUBBORN).boot()
    machine.wait_output("krun-stdout", b"ready")
    time.sleep(0.2)  # the child's trap
    before = time.monotonic()
    machine.send(STOP, struct.pack("<I", 1500))
    machine.wait_output("krun-stdout", b"child")
    machine.wait_output("krun-stdout", b"term")
    assert time.monotonic() - before < 1.5
    machine.wait()
    assert machine.exit[:2] == (137, 9)
    assert 1.5 <= time.monotonic() - before < 15


@pytest.mark.parametrize(("first", "second", "earliest", "latest"), [(1200, 9000, 1.2, 9), (9000, 800, 0.8, 9)])
def test_second_stop_never_extends_the_grace(
    machine: Machine, first: int, second: int, earliest: float, latest: float
) -> None:
    machine.shell(STUBBORN).boot()
    machine.wait_output("krun-stdout", b"ready")
    before = time.monotonic()
    machine.send(STOP, struct.pack("<I", first))
    machine.wait_output("krun-stdout", b"term")
    machine.send(STOP, struct.pack("<I", second))
    machine.wait()
    assert machine.exit[:2] == (137, 9)
    assert earliest <= time.monotonic() - before < latest


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.02; done", (7, 0)),
        ("echo ready; exec sleep 60", (143, 15)),
    ],
    ids=["own code", "143"],
)
def test_workload_that_ends_on_term_ends_normally(machine: Machine, script: str, ending: tuple[int, int]) -> None:
    machine.shell(script).boot()
    machine.wait_output("krun-stdout", b"ready")
    before = time.monotonic()
    machine.send(STOP, struct.pack("<I", (1 << 32) - 1))  # more than poll(2) can wait
    machine.wait()
    assert machine.exit == (*ending, "")
    assert machine.stdout == (b"ready\nbye\n" if ending[0] == 7 else b"ready\n")
    assert time.monotonic() - before < 15


def test_output_of_a_killed_workload_is_not_lost(machine: Machine) -> None:
    """What it wrote before the KILL is in pipes that nobody has read yet."""
    machine.read_outputs, machine.room = False, 4096
    script = "trap '' TERM; head -c 65536 /dev/zero; head -c 5000 /dev/zero >&2; exec sleep 60"
    machine.shell(script).boot()
    machine.wait_for(STARTED)
    machine.drain_port("krun-stderr", 0)
    machine.wait_output("krun-stderr", b"\0" * 5000)
    machine.send(STOP, struct.pack("<I", 300))
    machine.drain_port("krun-stdout", 0.7)
    machine.wait()
    assert machine.exit[:2] == (137, 9)
    assert struct.unpack("<QQ", machine.bodies(COUNTS)[0]) == (65_536, 5000)
    assert len(machine.stdout) == 65_536


def test_reader_that_is_stuck_does_not_hold_a_killed_workload(machine: Machine) -> None:
    machine.read_outputs = machine.acknowledge = False
    machine.shell("trap '' TERM; yes").boot()
    machine.wait_for(STARTED)
    time.sleep(0.3)
    before = time.monotonic()
    machine.send(STOP, struct.pack("<I", 300))
    machine.wait()
    assert machine.exit[:2] == (137, 9)
    assert time.monotonic() - before < 0.3 + 1 + 2 + 10  # the grace, the last output, DONE without ACK, a busy machine


@pytest.mark.parametrize("size", [3_000_000, 10], ids=["relay is stuck", "host is stuck"])
def test_stop_during_the_drain_ends_it_within_the_grace(machine: Machine, size: int) -> None:
    """A reader that stopped reading: either the port is full, or the host says DRAINING for ever."""
    machine.read_outputs = machine.acknowledge = False
    machine.shell(f"head -c {size} /dev/zero & sleep 0.2; echo x >&2; exit 3").boot()
    machine.drain_port("krun-stderr", 0)
    machine.wait_output("krun-stderr", b"x")
    if size == 10:
        machine.wait_for(COUNTS)
    else:
        time.sleep(0.5)
    before = time.monotonic()
    machine.send(DRAINING)
    machine.send(STOP, struct.pack("<I", 700))
    time.sleep(0.4)
    machine.send(DRAINING)
    machine.wait_for(EXIT)
    assert 0.6 < time.monotonic() - before < 2
    machine.wait()
    assert machine.exit[:2] == (3, 0)


def test_signals_to_pid1_are_passed_on(machine: Machine) -> None:
    script = "trap 'echo hup; kill -TERM 1' HUP; trap 'echo term; exit 9' TERM; kill -HUP 1"
    script += "; while :; do sleep 0.02; done"
    machine.shell(script).run()
    assert machine.stdout == b"hup\nterm\n"
    assert machine.exit == (9, 0, "")


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<IHHI", 70000, 0x102, 0, 0),
        struct.pack("<IHHI", 0, 0x102, 1, 0),
        struct.pack("<IHHI", 0, 0x1FF, 0, 0),
        struct.pack("<IHHI", 0, 0x102, 0, 5),
        struct.pack("<IHHI", 2, 0x104, 0, 0) + b"\0\0",
    ],
    ids=["long", "reserved", "unknown", "process", "short"],
)
def test_bad_frame_drops_the_control_port_only(machine: Machine, bad: bytes) -> None:
    machine.shell("echo ready; sleep 0.4; echo done; exit 5").boot()
    machine.wait_output("krun-stdout", b"ready")
    machine.send_raw(bad)
    machine.wait()
    assert machine.stdout == b"ready\ndone\n"
    assert machine.bodies(EXIT) == []
    assert machine.returncode == REBOOTED


def test_optional_and_longer_frames_are_fine(machine: Machine) -> None:
    machine.shell("trap 'exit 8' USR2; echo ready; while :; do sleep 0.05; done").boot()
    machine.wait_output("krun-stdout", b"ready")
    machine.send(0x8001, b"whatever")
    machine.send(TIME, struct.pack("<Q", 1))
    machine.send(SIGNAL, struct.pack("<I", 12) + b"later fields")
    assert machine.wait().exit[0] == 8


def test_silence_after_counts_is_bounded_and_draining_extends_it(machine: Machine) -> None:
    machine.acknowledge = False
    machine.shell("exit 4").boot()
    machine.wait_for(COUNTS)
    began = time.monotonic()
    time.sleep(1.5)
    machine.send(DRAINING)
    machine.wait()
    assert machine.exit[0] == 4
    done = time.monotonic() - began
    assert 8 < done < 11  # 1.5, five of silence, two after DONE


def test_host_that_leaves_the_control_port_does_not_hold_the_end(machine: Machine) -> None:
    machine.shell("echo ready; sleep 0.3; echo done").boot()
    machine.wait_output("krun-stdout", b"ready")
    machine.close_port("krun-control")
    assert machine.wait(10).stdout == b"ready\ndone\n"


def test_user_groups_umask_limits_and_ownership_of_the_streams(machine: Machine) -> None:
    assert machine.start is not None
    machine.start["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o027}
    machine.start["rlimits"] = [[7, 100, 200], [4, 0, 0]]
    script = "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; echo again >/dev/stdout; cat /proc/self/status"
    machine.links["/devices/x"] = "x"
    machine.shell(script.replace("/dev/stdout", "/proc/self/fd/1")).run()
    lines = machine.stdout.decode().splitlines()
    assert lines[:7] == ["1000", "1001", "1001 7 8", "0027", "100", "200", "again"]
    status = dict(line.split(":\t", 1) for line in lines[7:] if ":\t" in line)
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert status["SigBlk"] == "0" * 16
    assert not int(status["SigIgn"], 16) & (1 << 12 | 1 << 24)  # Python ignores PIPE and XFSZ, its children do not


def test_capabilities_of_the_config(machine: Machine) -> None:
    sets = {
        "bounding": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    process = {
        "args": ["/bin/cat", "/proc/self/status"],
        "user": {"uid": 5, "gid": 6},
        "capabilities": sets,
        "noNewPrivileges": True,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
    }
    machine.text("/.krun_config.json", json.dumps({"process": process, "hostname": "boxed"}))
    machine.run()
    status = dict(line.split(":\t", 1) for line in machine.stdout.decode().splitlines() if ":\t" in line)
    kill, both = f"{1 << 5:016x}", f"{1 << 5 | 1:016x}"
    assert (status["CapBnd"], status["CapPrm"], status["CapEff"]) == (both, kill, kill)
    assert (status["CapInh"], status["CapAmb"], status["NoNewPrivs"]) == (kill, kill, "1")
    assert status["Uid"].split() == ["5"] * 4


def test_root_with_capabilities_keeps_only_the_bounding_ones(machine: Machine) -> None:
    sets = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}
    process = {"args": ["/bin/cat", "/proc/self/status"], "capabilities": sets}
    machine.text("/.krun_config.json", json.dumps({"process": process}))
    status = dict(line.split(":\t", 1) for line in machine.run().stdout.decode().splitlines() if ":\t" in line)
    assert [status[name] for name in ("CapBnd", "CapPrm", "CapEff")] == [f"{1:016x}"] * 3


def test_standard_mounts_hostname_and_loopback(machine: Machine) -> None:
    machine.links["/bin/hostname"] = machine.links["/bin/ip"] = machine.links["/bin/ls"] = "busybox"
    assert machine.start is not None
    machine.start["env"] = ["HOSTNAME=named"]
    machine.shell("cat /proc/mounts; echo; hostname; ip addr show lo; cat /proc/self/mountinfo; ls -l /devices").run()
    text = machine.stdout.decode()
    mounts = {line.split()[1]: line.split() for line in text.split("\n\n")[0].splitlines()}
    assert [mounts[path][2] for path in ("/dev", "/proc", "/sys", "/dev/pts", "/dev/shm")] == [
        "devtmpfs",
        "proc",
        "sysfs",
        "devpts",
        "tmpfs",
    ]
    for path in ("/proc", "/sys"):
        assert {"nosuid", "nodev", "noexec", "relatime"} <= set(mounts[path][3].split(","))
    assert "named\n" in text
    assert "LOOPBACK,UP" in text
    assert " / / rw,relatime shared:" in text
    assert "fd -> /proc/self/fd" in text
    assert "stderr -> fd/2" in text
    assert machine.logs == ""


def test_tmpfs_of_start_data_and_config(machine: Machine) -> None:
    assert machine.start is not None
    machine.start["tmpfs"] = [{"destination": "/one/two", "options": ["size=1m", "mode=700", "ro", "exec"]}]
    mounts = [
        {"type": "tmpfs", "source": "tmpfs", "destination": "/three", "options": ["nosuid", "rprivate"]},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/proc"},
        {"type": "bind", "source": "/x", "destination": "/four"},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/a b\\c"},
        {"type": "tmpfs", "source": "tmpfs", "destination": "/a b\\c/."},
    ]
    machine.text("/.krun_config.json", json.dumps({"mounts": mounts}))
    output = machine.shell("cat /proc/mounts").run().stdout.decode()
    table = {line.split()[1]: line.split()[3].split(",") for line in output.splitlines()}
    assert {"ro", "nosuid", "nodev", "size=1024k", "mode=700"} <= set(table["/one/two"])
    assert "noexec" not in table["/one/two"]
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(table["/three"])
    assert "/four" not in table
    assert output.count("/a\\040b\\134c ") == 1
    assert output.count(" /proc ") == 1


def test_terminal(machine: Machine) -> None:
    """The workload leads its own session, in the foreground of its terminal, which has the window's size."""
    primary, secondary = os.openpty()
    try:
        machine.inherit = (secondary,)
        machine.terminal = f"/proc/self/fd/{secondary}"
        machine.links["/bin/stty"] = "busybox"
        assert machine.start is not None
        machine.start.update(terminal=True, window=[33, 101], user={"uid": 7, "gid": 8}, streams="console")
        script = "stty size; cat /proc/$$/stat; id -u; trap 'stty size; exit 6' WINCH; "
        script += "echo ready; while :; do sleep 0.05; done"
        machine.shell(script).boot()
        text = _read_until(primary, b"ready")
        size, stat, uid = text.decode().replace("\r", "").splitlines()[:3]
        assert (size, uid) == ("33 101", "7")
        pid, group, session, terminal, foreground = (int(stat.split()[i]) for i in (0, 4, 5, 6, 7))
        assert pid == group == session == foreground
        assert terminal != 0
        machine.send(RESIZE, struct.pack("<HHHH", 44, 102, 0, 0))
        assert b"44 102" in _read_until(primary, b"44 102")
        assert machine.wait().exit[:2] == (6, 0)
    finally:
        os.close(primary)
        os.close(secondary)


def test_terminal_gets_everything_before_counts(machine: Machine) -> None:
    """Also when the workload leaves processes behind that hold the terminal and go on writing."""
    primary, secondary = os.openpty()
    try:
        machine.inherit = (secondary,)
        machine.terminal = f"/proc/self/fd/{secondary}"
        assert machine.start is not None
        machine.start.update(terminal=True, streams="console")
        machine.shell(
            "trap '' HUP; (while :; do sleep 0.1; echo; done) & echo first; head -c 2000 /dev/zero; echo last"
        ).boot()
        machine.wait_for(COUNTS)
        assert _read_until(primary, b"last").replace(b"\r", b"").count(b"\0") == 2000
        assert machine.wait(10).exit == (0, 0, "")
    finally:
        os.close(primary)
        os.close(secondary)


def _read_until(fd: int, wanted: bytes) -> bytes:
    text = b""
    while wanted not in text:
        assert select.select([fd], [], [], 10)[0], text
        text += os.read(fd, 4096)
    return text


def test_everything_else_is_ended_before_the_report(machine: Machine) -> None:
    machine.shell("trap '' TERM HUP; (while :; do sleep 0.05; done) & echo $!").run()
    assert machine.exit[0] == 0
    assert machine.returncode == REBOOTED
    assert [kind for kind, _body in machine.frames][-2:] == [EXIT, DONE]


def test_config_env_never_controls_init(machine: Machine) -> None:
    config = {"args": ["/bin/env"], "env": ["KRUN_INIT=/evil", "KRUN_WORKDIR=/missing", "A=1", "HOME=/h"]}
    machine.text("/.krun_config.json", json.dumps(config))
    assert machine.start is not None
    machine.start["env"] = ["A=0"]
    machine.environ["KRUN_INIT_TRACE"] = "1"
    lines = set(machine.run().stdout.decode().splitlines())
    assert {"A=0", "HOME=/h", "TERM=linux", "KRUN_INIT=/evil"} <= lines
    assert not any("TRACE" in line for line in lines)
    assert "mounts.standard" in machine.logs


def test_environment_of_the_user_is_the_users(machine: Machine) -> None:
    """A control word in there controls nothing and arrives; one of the kernel command line never does."""
    assert machine.start is not None
    machine.start.update(init="/bin/env", env=["KRUN_INIT=foo", "KRUN_INIT_PID1=1", "KRUN_WORKDIR=/missing"])
    machine.environ.update(KRUN_RLIMITS="4=0:0", KRUN_WORKDIR="/bin")
    lines = machine.run().stdout.decode().splitlines()
    assert {"KRUN_INIT=foo", "KRUN_INIT_PID1=1", "KRUN_WORKDIR=/missing"} <= set(lines)
    assert not any(line.startswith("KRUN_RLIMITS") or line == "KRUN_WORKDIR=/bin" for line in lines)
    assert machine.returncode == REBOOTED  # init is still there to say so


def test_unexpected_exception_is_125_with_its_place(machine: Machine) -> None:
    machine.patience = "no number"  # type: ignore[assignment]
    assert machine.start is not None
    machine.start["ports"] = ["never"]
    code, signal, reason = machine.run().exit
    assert (code, signal) == (125, 0)
    assert reason.startswith("internal error: TypeError: ")
    assert "(in find, line " in reason
    assert machine.returncode == REBOOTED
