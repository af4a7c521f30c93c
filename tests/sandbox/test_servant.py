"""What a forked server can reach and do, and that it lives no longer than its supervisor."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import socket
import subprocess
import tempfile
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun.errors import EngineError, PeerError
from pykrun.host import linux
from pykrun.sandbox import FOLDER, LANDLOCK, NAMESPACES, REDUCED, USER_NAMESPACE, landlock
from tests.sandbox import prison
from tests.sandbox.prison import wait_until_gone
from tests.sandbox.servants import Errand, echo, errors_of, start_as_user, status

root = pytest.mark.root
as_user = pytest.mark.skipif(prison.PYTHON is None, reason="an ordinary user can run no Python here")
NAMES = ("mnt", "net", "ipc", "uts", "pid_for_children")
LOOK = ("openat", "getdents64")

Start = Callable[..., Errand]


@pytest.fixture
def start() -> Iterator[Start]:
    errands: list[Errand] = []

    def begin(work: Callable[[socket.socket], None], *rest: object, **more: object) -> Errand:
        errands.append(Errand(work, *rest, **more))  # type: ignore[arg-type]
        return errands[-1]

    yield begin
    for errand in errands:
        errand.close()


def test_serves_and_ends_with_its_work(start: Start) -> None:
    errand = start(echo)
    errand.socket.send(b"one")
    assert errand.socket.recv(10) == b"one"
    errand.socket.shutdown(socket.SHUT_WR)
    assert errand.hear() == ""
    assert errand.ended() == ""


def test_prepares_in_its_own_process_while_it_can_still_open_files(start: Start) -> None:
    found: list[str] = []

    def prepare() -> None:
        found.append(str(os.getpid()))  # of its process namespace, where it has one
        with open("/etc/passwd") as file:
            found.append(file.readline())

    def work(sock: socket.socket) -> None:
        late = errors_of(lambda: os.open("/etc/passwd", os.O_RDONLY))
        sock.send(f"{len(found)} {found[0] == str(os.getpid())} {late}".encode())

    errand = start(work, prepare=prepare)
    assert errand.hear() == f"2 True [{errno.EPERM}]"
    assert errand.ended() == ""
    assert found == [], "nothing was done in the caller's process"


def test_tells_why_it_could_not_prepare(start: Start) -> None:
    def prepare() -> None:
        raise ImportError("no module named so")

    errand = start(echo, prepare=prepare)
    assert errand.ended() == "ImportError: no module named so"


@root
def test_root_has_left_everything_behind(start: Start) -> None:
    errand = start(echo, "require")
    pid = errand.servant.pid
    assert errand.servant.isolation.level == NAMESPACES
    found = status(pid)
    ids = set(found["Uid"].split()) | set(found["Gid"].split())
    assert len(ids) == 1
    assert int(ids.pop()) >= 0x7000_0000
    assert found["Groups"] == ""
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert found["NSpid"].split()[1:] == ["1"]
    assert found["Name"] == "errand"
    (limit,) = [row for row in Path(f"/proc/{pid}/limits").read_text().splitlines() if row.startswith("Max core")]
    assert limit.split()[4:6] == ["0", "0"]
    assert [
        name for name in NAMES if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
    ] == []
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0, "it is not dumpable"
    assert os.getsid(pid) == pid


@root
def test_has_an_empty_root_and_its_descriptors_alone(start: Start) -> None:
    inherited = os.open("/", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    errand = start(echo, "require")
    assert errand.servant.isolation.level == NAMESPACES
    errand.socket.send(b"loop?")
    assert errand.socket.recv(5)
    pid = errand.servant.pid
    assert os.listdir(f"/proc/{pid}/root/") == []
    assert os.statvfs(f"/proc/{pid}/root/").f_flag & os.ST_RDONLY
    targets = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    kinds = sorted(target.split(":")[0] for target in targets)
    assert kinds == sorted(["/dev/null"] * 3 + ["socket", "pipe", "anon_inode"])  # its loop's epoll descriptor
    assert len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) == 1
    os.close(inherited)


def test_may_call_what_a_loop_needs_and_nothing_else(start: Start) -> None:
    forbidden: list[Callable[[], object]] = [
        lambda: os.open("/", os.O_RDONLY),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: socket.socket(socket.AF_INET),
        os.fork,
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.kill(1, signal.SIGTERM),
        lambda: os.memfd_create("x"),
        lambda: os.mkdir("/x"),
        lambda: os.setuid(0),
        lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        lambda: os.get_terminal_size(0),  # an ioctl
        lambda: os.pidfd_open(1),
    ]

    def work(sock: socket.socket) -> None:
        sock.setblocking(True)
        view = mmap.mmap(-1, 1 << 20)
        view.close()
        sock.send(errors_of(*forbidden).encode())

    assert start(work).hear() == repr([errno.EPERM] * len(forbidden))


def test_more_calls_can_be_allowed(start: Start) -> None:
    def work(sock: socket.socket) -> None:
        sock.send(repr(os.listdir("/")).encode())

    errand = start(work, allowed=LOOK)
    heard = errand.hear()
    assert heard.startswith("[")
    assert heard == "[]" or errand.servant.isolation.level == REDUCED


@root
def test_a_folder_as_root(start: Start, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()

    def work(sock: socket.socket) -> None:
        processes = [name for name in os.listdir(".") if name.isdigit()]
        sock.send(repr((os.listdir("/"), os.listdir("/.."), processes, os.path.exists("./sys"))).encode())

    tmp_path.chmod(0o755)
    errand = start(work, "require", folder=str(tmp_path))
    assert errand.hear() == "(['only'], ['only'], ['1'], False)"
    assert errand.servant.isolation.level == FOLDER


@root
def test_a_folder_keeps_rights_over_files_and_no_others(start: Start, tmp_path: Path) -> None:
    errand = start(echo, "require", folder=str(tmp_path))
    assert errand.servant.isolation.level == FOLDER
    found = status(errand.servant.pid)
    assert found["Uid"].split() == ["0"] * 4
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    sets = {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")}
    assert sets == {1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 27 | 1 << 31}
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0


@root
def test_a_folder_may_have_threads_and_no_processes(start: Start, tmp_path: Path) -> None:
    def work(sock: socket.socket) -> None:
        with socket.socket(fileno=os.dup(sock.fileno())) as other:
            lock = allocate_lock()
            lock.acquire()
            start_new_thread(lambda: (other.send(b"thread "), lock.release()), ())
            lock.acquire()
        forbidden: list[Callable[[], object]] = [
            os.fork,
            lambda: os.execv("/bin/true", ["true"]),
            lambda: os.kill(1, signal.SIGTERM),
            lambda: socket.socket(socket.AF_UNIX),
            lambda: os.chroot("/"),
            lambda: os.setuid(1),
            lambda: linux.system_call("open_by_handle_at", 0, bytes(16), 0),
            lambda: linux.mount("none", "/", "tmpfs"),
        ]
        sock.send(errors_of(*forbidden).encode())

    heard = start(work, "require", folder=str(tmp_path)).hear()
    assert heard == f"thread {[errno.EPERM] * 8}"


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("as_root", [pytest.param(True, marks=root), pytest.param(False, marks=as_user)])
def test_without_namespaces_a_folder_is_all_that_can_be_opened(as_root: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        with start_as_user("require", "deny", f"folder={name}", root=as_root) as supervisor:
            try:
                assert supervisor.stdout is not None
                assert supervisor.stdout.readline().split()[1] == LANDLOCK
                told = supervisor.stdout.readline().strip()
            finally:
                supervisor.kill()
        assert os.listdir(name) == ["made"]
    assert told == repr([0, *[errno.EACCES] * 4, 0])


def test_tells_why_it_failed(start: Start) -> None:
    def with_an_error_of_ours(_sock: socket.socket) -> None:
        raise PeerError("the peer\nlied")

    def with_another(_sock: socket.socket) -> None:
        raise ValueError("x")

    assert start(with_an_error_of_ours).ended() == "the peer lied"
    assert start(with_another).ended() == "ValueError: x"


def test_a_folder_that_is_not_there(start: Start) -> None:
    errand = start(echo, folder="/nonexistent")
    with pytest.raises(EngineError, match="No such file"):
        print(errand.servant.isolation)


def test_only_kill_ends_it(start: Start) -> None:
    """What is typed at the supervisor's terminal or sent to its group must not end the guest's disks."""
    errand = start(echo)
    assert errand.servant.isolation
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        os.kill(errand.servant.pid, number)
    errand.socket.send(b"still there")
    assert errand.socket.recv(100) == b"still there"
    os.kill(errand.servant.pid, signal.SIGKILL)
    assert errand.ended() == "its server was ended by SIGKILL"


def test_close_ends_it_and_gives_everything_back(start: Start) -> None:
    before = len(os.listdir("/proc/self/fd"))
    errand = start(echo)
    pid = errand.servant.pid
    errand.close()
    errand.close()
    wait_until_gone(pid)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("words", "as_root", "level"),
    [
        pytest.param(("require",), True, NAMESPACES, id="root", marks=root),
        pytest.param(("auto", "deny"), True, REDUCED, id="root in a container", marks=root),
        pytest.param(("require",), False, USER_NAMESPACE, id="user", marks=as_user),
        pytest.param(("auto", "deny"), False, REDUCED, id="user without namespaces", marks=as_user),
    ],
)
def test_dies_with_its_supervisor(words: tuple[str, ...], as_root: bool, level: str) -> None:
    with start_as_user(*words, root=as_root) as supervisor:  # type: ignore[arg-type]
        try:
            assert supervisor.stdout is not None
            pid, reached, _note = supervisor.stdout.readline().split(" ", 2)
            assert reached == level
            found = status(int(pid))
            assert found["CapEff"] == found["CapPrm"] == "0" * 16
            assert found["Seccomp"] == "2"
            assert found["Uid"].split()[0] != "0"
        finally:
            supervisor.kill()
    wait_until_gone(int(pid))


@as_user
def test_the_required_isolation_is_not_to_be_had() -> None:
    with start_as_user("require", "deny", stderr=subprocess.PIPE) as supervisor:
        _, errors = supervisor.communicate(timeout=60)
    assert "SandboxError: this host allows no namespaces" in errors


def test_refused_from_a_process_with_threads(start: Start) -> None:
    import threading

    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    thread.start()
    try:
        with pytest.raises(EngineError, match="threads"):
            start(echo)
    finally:
        event.set()
        thread.join()
