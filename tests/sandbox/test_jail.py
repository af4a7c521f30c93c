"""What a jailed program sees and may do, at each level of isolation that this host has."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun.errors import EngineError, SandboxError
from pykrun.sandbox import FILES, NAMESPACES, REDUCED, USER_NAMESPACE, WORK, Jail, start
from tests.sandbox import prison
from tests.sandbox.prison import Report, run, run_as_user, wait_until_gone

root = pytest.mark.root
as_user = pytest.mark.skipif(prison.PYTHON is None, reason="an ordinary user can run no Python here")


def as_root(script: str) -> Report:
    return run(script, "require")


def as_ordinary_user(script: str) -> Report:
    return run_as_user(script, "require")


LEVELS = [
    pytest.param(as_root, NAMESPACES, id="root", marks=root),
    pytest.param(as_ordinary_user, USER_NAMESPACE, id="user", marks=as_user),
]
levels = pytest.mark.parametrize(("runner", "level"), LEVELS)
Runner = Callable[[str], Report]
COUNT = 24


@levels
def test_sees_an_empty_root(runner: Runner, level: str) -> None:
    report = runner("/bin/busybox find / -xdev; /bin/busybox ls /room /dev")
    assert report.level == level
    assert report.status == 0
    assert set(report.output.split()) == {
        *("/", "/bin", "/bin/busybox", "/dev", "/dev/null", "/dev/urandom", "/dev/zero", "/tmp", "/room"),
        *("/room:", "/dev:", "null", "urandom", "zero"),
    }


@levels
def test_can_write_nowhere_but_in_its_folder(runner: Runner, level: str) -> None:
    report = runner(
        "for place in / /bin /dev /tmp; do echo x > $place/new && echo wrote $place; done 2>/dev/null;"
        "echo x > /bin/busybox && echo wrote program; echo x > /room/new && cat /room/new"
    )
    assert "wrote" not in report.output
    assert report.output.strip().endswith("x")


@levels
def test_its_folder_is_bounded(runner: Runner, level: str) -> None:
    report = runner("/bin/busybox dd if=/dev/zero of=/room/big bs=1M count=64 2>&1; /bin/busybox stat -c %s /room/big")
    assert "No space left" in report.output
    assert int(report.output.split()[-1]) <= 1 << 20


@levels
def test_has_no_other_processes_and_cannot_kill(runner: Runner, level: str) -> None:
    report = runner("echo $$ $PPID; kill -9 -1; kill -9 1; kill -0 1; echo alive")
    pid, parent = report.output.split()[:2]
    assert (int(pid) < 10, parent) == (True, "1")
    assert report.output.split()[-1] == "alive"
    assert report.status == 0


@levels
def test_cannot_mount_or_change_root(runner: Runner, level: str) -> None:
    report = runner(
        "/bin/busybox mount -t tmpfs none /tmp && echo mounted; /bin/busybox mount -o remount,rw / && echo remounted;"
        "/bin/busybox unshare -Ur true && echo unshared; /bin/busybox chroot /tmp && echo rooted; echo end"
    )
    assert {"mounted", "remounted", "unshared", "rooted"} & set(report.output.split()) == set()
    assert report.output.split()[-1] == "end"


@levels
def test_has_no_network(runner: Runner, level: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        report = runner(f"/bin/busybox nc -w 2 127.0.0.1 {port} </dev/null && echo connected; /bin/busybox ifconfig -a")
    assert "connected" not in report.output
    assert "eth" not in report.output


@levels
def test_no_core_files_and_no_environment_of_ours(runner: Runner, level: str) -> None:
    os.environ["PYKRUN_TEST_MARK"] = "mark"
    try:
        report = runner("ulimit -c; ulimit -H -c; /bin/busybox env")
    finally:
        del os.environ["PYKRUN_TEST_MARK"]
    assert report.output.split()[:2] == ["0", "0"]
    assert "mark" not in report.output


@root
def test_root_becomes_an_id_that_owns_nothing_without_capabilities() -> None:
    """Seen from the host, where /proc is."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inmate = start(prison.jail("echo up; read x", theirs.fileno()), "require")
        try:
            assert ours.recv(100) == b"up\n"
            for pid in (inmate.pid, *descendants(inmate.pid)):
                status = dict(
                    line.split(":\t", 1)
                    for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                    if ":\t" in line
                )
                assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
                assert status["NoNewPrivs"] == "1"
                identity = set(status["Uid"].split()) | set(status["Gid"].split())
                assert len(identity) == 1
                assert int(identity.pop()) > 65535
                assert status["Groups"].split() == []
                filtered = status["Seccomp"] == "2"
                assert filtered == (pid != inmate.pid)
        finally:
            inmate.close()


def test_gets_its_descriptors_and_no_others() -> None:
    """The shell opens /proc/self/fd only where there is a /proc, so it is asked by redirection."""
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    probe = "; ".join(f"(true <&{number}) 2>/dev/null && echo {number}" for number in range(64))
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            fds = (theirs.fileno(),) * 4
            inmate = start(prison.jail(probe, theirs.fileno(), descriptors=fds))
        output = b"".join(iter(lambda: ours.recv(65536), b""))
        inmate.close()
    finally:
        os.close(secret)
        ours.close()
    assert output.split() == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("root", [pytest.param(True, marks=pytest.mark.root), pytest.param(False, marks=as_user)])
@pytest.mark.parametrize("host", [("few",), ("few", "deny")], ids=["namespaces", "reduced"])
def test_a_host_with_few_descriptors_has_enough(host: tuple[str, ...], root: bool) -> None:
    report = run_as_user("echo up; exit 7", "auto", *host, root=root)
    assert report.output == "up\n", report.error
    assert os.waitstatus_to_exitcode(report.status or 0) == 7


def test_descriptors_change_places(tmp_path: Path) -> None:
    """They are asked for in the opposite order, and so many that places are the numbers of others' sources."""
    ours, theirs = socket.socketpair()
    count = theirs.fileno() + COUNT
    files = [os.open(tmp_path / str(index), os.O_RDWR | os.O_CREAT) for index in range(count)]
    for index, file in enumerate(files):
        os.pwrite(file, f"{index} ".encode(), 0)
    assert len({*files} & {*range(3, 3 + count)}) > 1
    output = theirs.fileno()
    script = "; ".join(f"cat <&{3 + place}" for place in range(count))
    with ours:
        with theirs:
            inmate = start(prison.jail(script, output, descriptors=(output, output, output, *reversed(files))))
        try:
            said = b"".join(iter(lambda: ours.recv(65536), b""))
            assert [int(word) for word in said.split()] == list(range(count - 1, -1, -1))
        finally:
            inmate.close()
            for file in files:
                os.close(file)


def test_files_and_listeners_are_where_its_arguments_say(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_text("from the host\n")
    listener = socket.socket(socket.AF_UNIX)
    ours, theirs = socket.socketpair()
    with ours, listener:
        listener.setblocking(False)
        with pytest.raises(OSError):
            listener.accept()
        with theirs:
            script = f"cat {FILES}content; [ -S {WORK}door ] && echo socket; [ -d {WORK}sub ] && echo folder"
            settings = {"files": {"content": content}, "listeners": {"door": listener}, "folders": ("sub",)}
            inmate = start(prison.jail(script, theirs.fileno(), **settings))
        output = b"".join(iter(lambda: ours.recv(65536), b""))
        inmate.close()
    assert output == b"from the host\nsocket\nfolder\n"


@as_user
def test_without_namespaces_it_says_so_and_goes_on() -> None:
    report = run_as_user("echo $PPID; ulimit -c; pwd", "auto", "deny")
    assert report.level == REDUCED
    assert report.note
    assert report.status == 0
    assert int(report.output.split()[0]) > 1
    assert report.output.split()[1] == "0"


@root
def test_root_without_namespaces_is_not_root_any_more() -> None:
    report = run_as_user("/bin/busybox id -u; cat /etc/shadow", "auto", "deny", root=True)
    assert report.level == REDUCED
    assert int(report.output.split()[0]) > 65535
    assert "root:" not in report.output


@as_user
def test_reduced_level_leaves_no_folder_behind(tmp_path: Path) -> None:
    report = run_as_user("echo $TMPDIR; echo x > $TMPDIR/file; busybox mkdir $TMPDIR/folder", "auto", "deny")
    folder = report.output.strip()
    assert "pykrun" in folder
    assert not Path(folder).exists()
    of_its_process = Path(folder).name.rpartition("-")[0]  # others' come and go
    for place in ("/dev/shm", tempfile.gettempdir()):
        assert not [name for name in os.listdir(place) if name.startswith(of_its_process)]


@as_user
def test_room_that_is_not_there_is_an_error_not_a_crash_later() -> None:
    with pytest.raises(AssertionError, match=r"no folder with .* MiB of room"):
        run_as_user("true", "auto", "deny", "vast")


@pytest.mark.parametrize("root", [pytest.param(True, marks=pytest.mark.root), pytest.param(False, marks=as_user)])
def test_read_only_on_older_kernels_too(root: bool) -> None:
    report = run_as_user(
        "echo x > /bin/busybox; echo x > /new; echo x > /dev/null && echo null; echo x > /room/x && echo work",
        "require",
        "old",
        root=root,
    )
    assert report.output.count("Read-only file system") == 2
    assert report.output.split()[-2:] == ["null", "work"]


@as_user
def test_required_isolation_is_refused_where_it_is_not_to_be_had() -> None:
    with pytest.raises(AssertionError, match="SandboxError: this host allows no namespaces"):
        run_as_user("true", "require", "deny")


def test_exit_status_arrives() -> None:
    assert os.waitstatus_to_exitcode(run("exit 42").status or 0) == 42
    assert os.waitstatus_to_exitcode(run("kill -ABRT $$").status or 0) == -signal.SIGABRT


def test_program_that_cannot_be_executed_says_why(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    nothing = os.open(os.devnull, os.O_RDWR)
    jail = Jail(program=text, arguments=("text",), libraries=(), descriptors=(nothing,) * 3)
    inmate = start(jail)
    try:
        prison.await_end(inmate)
        ended = inmate.reap()
        assert ended is not None
        assert "Exec format error" in ended.error or os.waitstatus_to_exitcode(ended.status or 0) == 125
    finally:
        inmate.close()
        os.close(nothing)


def test_missing_file_is_an_error_when_isolation_is_required(tmp_path: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    inmate = start(prison.jail("true", nothing, files={"gone": tmp_path / "gone"}), "require")
    try:
        with pytest.raises((SandboxError, EngineError), match="No such file"):
            _ = inmate.isolation
    finally:
        inmate.close()
        os.close(nothing)


@pytest.mark.root
def test_a_program_in_a_folder_that_the_jail_has_too_is_as_isolated_as_any(tmp_path: Path) -> None:
    assert tmp_path.is_relative_to("/tmp") or tmp_path.parts[1] in ("dev", "room", "work")
    program = tmp_path / "busybox"
    program.write_bytes(Path("/bin/busybox").read_bytes())
    program.chmod(0o755)
    nothing = os.open(os.devnull, os.O_RDWR)
    jail = Jail(program=program, arguments=("sh", "-c", "exit 9"), libraries=(), descriptors=(nothing,) * 3)
    inmate = start(jail)
    try:
        assert inmate.isolation.level == NAMESPACES
        prison.await_end(inmate)
        ended = inmate.reap()
        assert ended is not None
        assert os.waitstatus_to_exitcode(ended.status or 0) == 9
    finally:
        inmate.close()
        os.close(nothing)


@pytest.mark.root
def test_a_failure_that_is_no_limit_of_the_host_is_no_reason_for_less_isolation(tmp_path: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    inmate = start(prison.jail("true", nothing, files={"gone": tmp_path / "gone"}))
    try:
        with pytest.raises((SandboxError, EngineError), match="No such file"):
            _ = inmate.isolation
    finally:
        inmate.close()
        os.close(nothing)


def test_kill_ends_everything_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            script = "(trap '' TERM HUP; busybox setsid /bin/busybox sleep 1000) & echo up; sleep 1000"
            inmate = start(prison.jail(script, theirs.fileno()))
        assert ours.recv(100) == b"up\n"
        family = descendants(inmate.pid)
        assert family
        inmate.kill()
        prison.await_end(inmate, 5)
        assert inmate.reap() is not None
        for pid in family:
            wait_until_gone(pid)
        inmate.close()


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found
