"""A guest's network on each engine, through passt, in an internet of two namespaces."""

from __future__ import annotations

import array
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.boot.vm import Result, Vm, descendants, engine_process, finish, read_line
from tests.net.internet import NAME, SERVER4, SERVER6, Internet
from tests.support.command import Pykrun, wait_until
from tests.support.processes import children, still_running

pytestmark = pytest.mark.root

MB = 1_000_000
GATEWAY = "10.0.2.2"


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    """What `pykrun run` is on; its host's resolver is the server."""
    if shutil.which("passt") is None:
        pytest.skip("no passt on PATH (apt-get install passt)")
    internet = Internet(tmp_path)
    yield internet
    internet.close()


@pytest.fixture
def netted(vm: Vm, internet: Internet) -> Vm:
    return place(vm, internet)


@pytest.fixture
def netted_once(vm_once: Vm, internet: Internet) -> Vm:
    return place(vm_once, internet)


def place(vm: Vm, internet: Internet) -> Vm:
    """Have its pykrun run on the host of that internet."""
    vm.surroundings = lambda: internet.enter_host(vm.folder)
    return vm


def online(vm: Vm, *words: str, options: tuple[str, ...] = ("--net", "user"), limit: float = 120) -> list[str]:
    """The lines that the guest says, commands of /tool being separated by "+"."""
    result = vm.run(*options, "--", "/tool", "online", *words, limit=limit)
    assert (result.code, result.err) == (0, b""), result
    return result.out.decode().splitlines()


class Serving:
    """Answers on sockets, each in a thread, until they are closed."""

    def __init__(self) -> None:
        self._ends: list[tuple[socket.socket, threading.Thread]] = []
        self._closed = False

    def add(self, sock: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        sock.settimeout(None)  # a guest may be long in coming; `close` wakes whoever waits

        def run() -> None:
            try:
                while not self._closed:
                    serve(sock)
            except OSError:  # shut down
                pass

        thread = threading.Thread(target=run)
        thread.start()
        self._ends.append((sock, thread))

    def close(self) -> None:
        self._closed = True
        for sock, thread in self._ends:
            with contextlib.suppress(OSError):  # a datagram socket, which does not wait long
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(30)
            sock.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.close()


def answer_stream(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"there heard " + connection.recv(1024))


def answer_datagram(sock: socket.socket) -> None:
    sock.settimeout(0.2)
    try:
        content, peer = sock.recvfrom(1024)
    except TimeoutError:
        return
    sock.sendto(b"there heard " + content, peer)


def serve_answers(internet: Internet, serving: Serving) -> None:
    for address in (SERVER4, SERVER6):
        serving.add(internet.listener(internet.server, address, 7000), answer_stream)
        serving.add(internet.listener(internet.server, address, 7000, socket.SOCK_DGRAM), answer_datagram)


def test_by_default_there_is_only_lo(vm: Vm) -> None:
    result = vm.tool_run("links")
    assert (result.code, result.out, result.err) == (0, b"lo\n", b"")


def test_out(netted: Vm, internet: Internet, serving: Serving) -> None:
    """TCP, UDP and names; both families."""
    serve_answers(internet, serving)
    internet.dnsmasq(internet.server, SERVER4)
    said = online(
        netted,
        *("links", "+"),
        *("ask", "tcp", SERVER4, "7000", "one", "+"),
        *("ask", "udp", SERVER4, "7000", "two", "+"),
        *("resolve", NAME, "+"),
        *("ipv6-address", "20", "+"),
        *("ask", "tcp", SERVER6, "7000", "three", "+"),
        *("ask", "udp", SERVER6, "7000", "four", "+"),
        *("ask", "tcp", NAME, "7000", "five", "+"),
        *("tcp-try", SERVER4, "7001", "10", "+", "tcp-try", SERVER6, "7001", "10"),
    )
    address = said.pop(6)
    assert address.startswith("fd6b72756e000000")
    assert {said.pop(4), said.pop(4)} == {SERVER4, SERVER6}
    assert said == [
        "lo",
        "eth0",
        *(f"there heard {word}" for word in ("one", "two", "three", "four", "five")),
        *["Connection refused"] * 2,
    ]


def test_publish(netted: Vm, internet: Internet) -> None:
    process = netted.start(
        *("--publish", "8080:80", "--publish", "8053:53/udp", "--publish", "[::1]:8081:81"),
        *("--publish", "0.0.0.0:9000-9002:82-84"),
        *("--", "/tool", "online", "ipv6-address", "20", "+", "serve", "tcp", "80", "+", "serve", "udp", "53"),
        *("+", "serve", "tcp", "81", "+", "serve", "tcp", "83"),
    )
    host, server = internet.host, internet.server
    assert read_line(process).startswith(b"fd6b")
    for pid, address, port, kind, name, source in (
        (host, "127.0.0.1", 8080, socket.SOCK_STREAM, "one", f"::ffff:{GATEWAY}"),
        (host, "127.0.0.1", 8053, socket.SOCK_DGRAM, "two", f"::ffff:{GATEWAY}"),
        (host, "::1", 8081, socket.SOCK_STREAM, "three", "fe80::2"),
        (server, "192.0.2.1", 9001, socket.SOCK_STREAM, "four", f"::ffff:{SERVER4}"),
    ):
        assert read_line(process) == b"ready\n", name
        if name == "one":
            with pytest.raises(ConnectionRefusedError):
                internet.connect(server, "192.0.2.1", 8080)
        with internet.connect(pid, address, port, kind) as client:
            client.sendall(name.encode())
            assert client.recv(1024).decode().split("%")[0] == f"guest heard {name} from {source}"
    assert finish(process) == Result(0, b"", b"")


def counters(listener: socket.socket, size: int, verdicts: list[str]) -> Callable[[socket.socket], None]:
    """A service that checks what `tcp-pour` sends: numbers of 64 bits that count up."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"!")
            expected, kept, total = 0, b"", 0
            while chunk := connection.recv(1 << 20):
                total += len(chunk)
                kept += chunk
                whole = len(kept) // 8
                numbers = array.array("Q", kept[: 8 * whole])
                kept = kept[8 * whole :]
                if numbers != array.array("Q", range(expected, expected + whole)):
                    verdicts.append(f"wrong near {8 * expected}")
                expected += whole
            verdicts.append(f"{total} of {size}")
            connection.sendall(b"all of it")

    return serve


def source(size: int) -> Callable[[socket.socket], None]:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for first in range(0, size // 8, 1 << 15):
                last = min(first + (1 << 15), size // 8)
                connection.sendall(array.array("Q", range(first, last)).tobytes())

    return serve


BULK = [
    pytest.param("uml", 100 * MB, marks=pytest.mark.uml),
    pytest.param("qemu", 16 * MB, marks=pytest.mark.qemu),
    pytest.param("qemu", 100 * MB, marks=[pytest.mark.qemu, pytest.mark.full]),
]


@pytest.mark.parametrize(("name", "size"), BULK)
def test_bulk(name: str, size: int, tool: Path, run_pykrun: Pykrun, internet: Internet, serving: Serving) -> None:
    """Every byte arrives once and in order, both ways."""
    vm = place(Vm(name, tool, run_pykrun), internet)
    verdicts: list[str] = []
    listener = internet.listener(internet.server, SERVER4, 7000)
    serving.add(listener, counters(listener, size, verdicts))
    serving.add(internet.listener(internet.server, SERVER4, 7001), source(size))
    words = ["tcp-pour", SERVER4, "7000", str(size), "+", "tcp-drain", SERVER4, "7001"]
    assert online(vm, *words, limit=300) == ["all of it", f"{size} end"]
    assert verdicts == [f"{size} of {size}"]


def test_many_small_questions(netted_once: Vm, internet: Internet, serving: Serving) -> None:
    serve_answers(internet, serving)
    words = [word for number in range(40) for word in ("ask", "tcp", SERVER4, "7000", str(number), "+")]
    assert online(netted_once, *words[:-1]) == [f"there heard {number}" for number in range(40)]


def test_the_host_is_out_of_reach(netted: Vm, internet: Internet, serving: Serving) -> None:
    """Neither by the gateway's address nor by frames that no kernel would send."""
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    listeners = [internet.listener(internet.host, host, 5555, kind) for host in ("127.0.0.1", "::1") for kind in kinds]
    serve_answers(internet, serving)
    forged = [
        word
        for address in ("127.0.0.1", "0.0.0.0", "127.1.2.3", GATEWAY, "::1", "::", "::ffff:127.0.0.1", "fe80::2")
        for protocol in ("tcp", "udp")
        for word in ("forge", protocol, address, "5555", "+")
    ]
    said = online(
        netted,
        *("tcp-try", GATEWAY, "5555", "2", "+"),
        *forged,
        *("ask", "udp", SERVER4, "7000", "still here"),
    )
    assert said == ["no answer", *["silent"] * 16, "there heard still here"]
    assert select.select(listeners, [], [], 0)[0] == []
    for listener in listeners:
        listener.close()


def test_a_resolver_on_the_hosts_loopback(netted_once: Vm, internet: Internet) -> None:
    """As systemd-resolved's: names work, and nothing else of the loopback is to be had."""
    internet.resolvers.write_text("nameserver 127.0.0.53\n")
    internet.dnsmasq(internet.host, "127.0.0.53")
    with internet.listener(internet.host, "127.0.0.1", 5555) as listener:
        said = online(
            netted_once, "resolve", NAME, "+", "tcp-try", GATEWAY, "5555", "2", "+", "forge", "tcp", GATEWAY, "53"
        )
        assert set(said[:2]) == {SERVER4, SERVER6}
        assert said[2:] == ["no answer", "silent"]
        assert select.select([listener], [], [], 0)[0] == []


def test_noise(netted: Vm, internet: Internet, serving: Serving) -> None:
    """Frames of random bytes harm nobody but the guest's own connections."""
    serve_answers(internet, serving)
    said = online(netted, "noise", "3000", "+", "ask", "tcp", SERVER4, "7000", "still here")
    assert said == ["sent", "there heard still here"]


def test_a_host_without_network(vm_once: Vm, tmp_path: Path) -> None:
    internet = Internet(tmp_path, routed=False)
    try:
        assert online(place(vm_once, internet), "links") == ["lo", "eth0"]
    finally:
        internet.close()


def test_a_port_in_use(vm_once: Vm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        result = vm_once.tool_run("true", options=["--publish", f"{port}:80"])
    assert (result.code, result.out) == (125, b"")
    assert (
        result.err
        == (
            f"pykrun: cannot publish 127.0.0.1:{port}/tcp: the port is in use "
            "(take another, or end the program that has it)\n"
        ).encode()
    )


def test_no_passt(vm_once: Vm, tmp_path: Path) -> None:
    for name in ("linux.uml", "qemu-system-x86_64"):
        if (path := shutil.which(name)) is not None:
            (tmp_path / name).symlink_to(path)
    process = vm_once.pykrun.start(
        vm_once.options("--net", "user", "--", "/tool", "links"),
        env={"PATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    result = finish(process)
    assert (result.code, result.out) == (125, b"")
    assert result.err.startswith(b"pykrun: passt is not installed")
    assert result.err.count(b"\n") == 1


def passt_process(process: subprocess.Popen[bytes]) -> int:
    (found,) = [entry.pid for entry in descendants(process.pid) if entry.command.startswith(b"passt\0")]
    return found


def started(vm: Vm) -> subprocess.Popen[bytes]:
    process = vm.start("--net", "user", "--", "/tool", "sleep", "3", "ready")
    assert read_line(process) == b"ready\n"
    return process


def test_passt_is_killed(netted: Vm) -> None:
    """The VM goes on without a network, and says so at its end."""
    process = started(netted)
    os.kill(passt_process(process), signal.SIGKILL)
    result = finish(process)
    assert (result.code, result.out) == (0, b"")
    assert result.err == b"pykrun: the network ended before the VM: passt: it was ended by signal 9\n"


@pytest.mark.parametrize("whom", ["supervisor", "engine"])
def test_kill_9_leaves_nothing(netted: Vm, whom: str) -> None:
    before = children()
    process = started(netted)
    passt = passt_process(process)
    os.kill(process.pid if whom == "supervisor" else engine_process(process, netted.engine).pid, signal.SIGKILL)
    assert finish(process).code == (-9 if whom == "supervisor" else 125)
    assert not still_running(before, 5)
    wait_until(lambda: not Path(f"/proc/{passt}").exists(), 5, "the end of passt")


def test_passt_fails_to_start(netted_once: Vm, tmp_path: Path) -> None:
    """What it says is the reason of a run that never was."""
    folder = netted_once.folder.parent  # which everybody may look into
    (folder / "passt").write_text(
        "#!/bin/sh\necho 'Failed to send 3 bytes to syslog' >&2\necho 'No way out' >&2\nexit 1\n"
    )
    for mode, reason in ((0o755, b"No way out"), (0o700, f"{folder}/passt cannot be started: ".encode())):
        (folder / "passt").chmod(mode)
        process = netted_once.pykrun.start(
            netted_once.options("--net", "user", "--", "/tool", "links"),
            env={"PATH": f"{folder}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        result = finish(process)
        assert (result.code, result.out) == (125, b"")
        assert result.err.startswith(b"pykrun: there is no network: passt: " + reason)


def test_name_servers_that_were_given_are_kept(netted: Vm, busybox: Path) -> None:
    given = ["--text", "/etc/resolv.conf=nameserver 203.0.113.5", "--file", f"/bin/cat={busybox}:0755"]
    result = netted.run("--net", "user", *given, "--", "/bin/cat", "/etc/resolv.conf")
    assert (result.code, result.out) == (0, b"nameserver 203.0.113.5")


def test_a_shared_directorys_name_servers_stay(netted: Vm, tmp_path: Path, busybox: Path) -> None:
    """A writable root: the guest gets a file of its own over the host's, on a busy machine a moment after the start."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/resolv.conf").write_text("nameserver 203.0.113.99\n")
    options = ["--net", "user", "--root", str(tree), "--file", f"/bin/sh={busybox}:0755"]
    script = 'line=; while [ -z "$line" ]; do read line < /etc/resolv.conf; done; echo "$line"'
    result = netted.run(*options, "--", "/bin/sh", "-c", script)
    assert result.code == 0, result
    assert b"203.0.113.99" not in result.out
    assert result.out.startswith(b"nameserver "), result
    assert (tree / "etc/resolv.conf").read_text() == "nameserver 203.0.113.99\n"
