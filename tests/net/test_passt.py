"""The process: what it may, what it is told, and that it goes when it is to go."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pykrun.errors import MissingError, UsageError
from pykrun.machine import Network
from pykrun.net import Publish, make_pair, parse
from pykrun.net import passt as program
from pykrun.net.surroundings import Surroundings
from tests.net.internet import Internet
from tests.support.command import wait_until

BOTH = Surroundings("a0", "a0")
SRC = Path(__file__).resolve().parents[2] / "src"


@contextmanager
def running(*published: str) -> Iterator[tuple[program.Passt, socket.socket]]:
    """A passt, and our end of its socket."""
    ours, theirs = make_pair()
    with ours:
        with theirs:
            process = program.start(theirs, Network(), [parse(text) for text in published])
        try:
            yield process, ours
        finally:
            process.close()


def ended(process: program.Passt, seconds: float = 10) -> bool:
    return bool(select.select([process.pidfd], [], [], seconds)[0])


def settled(pid: int) -> None:
    """Wait until it serves: it filters its own system calls last of all."""
    status = Path(f"/proc/{pid}/status")
    wait_until(lambda: "Seccomp:\t2" in status.read_text(), what=f"passt {pid}")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def command_line(around: Surroundings = BOTH, publish: Sequence[Publish] = ()) -> list[str]:
    return program.words(Network(), publish, around)


def test_command_line() -> None:
    words = command_line()
    assert words[0] == "passt"
    assert "--no-map-gw" in words
    assert not {"--ipv4-only", "--interface"} & set(words)
    assert words.count("--address") == 2


def test_command_line_without_routes() -> None:
    assert command_line(Surroundings("", ""))[-3:] == ["--interface", "lo", "--no-map-gw"]
    assert "--ipv4-only" in command_line(Surroundings("a0", ""))
    words = command_line(Surroundings("", "a6"))
    assert words[words.index("--interface") + 1] == "a6"
    assert "--ipv4-only" not in words


def test_the_gateway_stands_for_the_host_only_where_it_must() -> None:
    assert "--no-map-gw" in command_line(publish=(Publish("127.0.0.1", 80, 80),))
    assert "--no-map-gw" not in command_line(Surroundings("a0", "a0", local_resolver=True))
    assert "--no-map-gw" not in command_line(publish=(Publish("127.0.0.1", 80, 80, 1, "udp"),))


def test_published_ports_on_the_command_line() -> None:
    publish = (Publish("127.0.0.1", 80, 8000, 3), Publish("::1", 53, 53, 1, "udp"))
    words = command_line(publish=publish)
    assert words[-4:] == ["--tcp-ports", "127.0.0.1/80-82:8000-8002", "--udp-ports", "::1/53-53:53-53"]


@pytest.mark.root
def test_what_it_may(passt: str) -> None:
    with running() as (process, ours):
        settled(process.pid)
        facts = status(process.pid)
        assert int(facts["Uid"].split()[0]) >= 0x7000_0000
        assert facts["Uid"].split()[0] == facts["Gid"].split()[0]
        assert facts["Groups"] == ""
        assert {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        assert os.getsid(process.pid) == process.pid
        assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"
        ours_in_it = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (1, 2)]
        assert all(name.startswith("pipe:") for name in ours_in_it)
        descriptors = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert all(name.startswith(("socket:", "pipe:", "anon_inode:", "/dev/null")) for name in descriptors)
        assert f"socket:[{os.fstat(ours.fileno()).st_ino}]" not in descriptors


@pytest.mark.root
def test_low_ports_and_no_rights(internet: Internet, passt: str) -> None:
    with internet.on_host(), running("80:80", "0.0.0.0:53:5353/udp", "[::1]:443-445:1000-1002") as (process, _):
        settled(process.pid)
        assert status(process.pid)["CapEff"] == status(process.pid)["CapAmb"] == "0" * 16
        said = subprocess.run(["ss", "-Htuln"], capture_output=True, text=True, check=True).stdout
        addresses = {words[4] for line in said.splitlines() if (words := line.split())}
    assert addresses == {"127.0.0.1:80", "0.0.0.0:53", "[::1]:443", "[::1]:444", "[::1]:445"}


@pytest.mark.root
def test_an_ordinary_user(passt: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(SRC)!r}); " + (
        "from pykrun.net import make_pair, passt; from pykrun.machine import Network; import select, time;"
        "ours, theirs = make_pair(); process = passt.start(theirs, Network());"
        "print(select.select([process.pidfd], [], [], 1)[0], process.describe_end()); process.close()"
    )
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for python in (sys.executable, "/usr/bin/python3"):
        probe = [*drop, python, "-I", "-c", f"open({str(SRC / 'pykrun/net/passt.py')!r})"]
        if subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode == 0:
            break
    else:
        pytest.skip("an ordinary user can execute no Python here, or cannot read the sources")
    done = subprocess.run([*drop, python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[] \n", "")


def test_it_ends_when_its_socket_does(passt: str) -> None:
    with running() as (process, ours):
        settled(process.pid)
        assert not ended(process, 0)
        assert process.describe_end() == ""
        ours.close()
        assert ended(process)
        assert process.describe_end() == "it exited with 0"


def test_close_ends_it(passt: str) -> None:
    with running() as (process, _):
        pid = process.pid
        process.close()
        assert not Path(f"/proc/{pid}").exists()
        process.close()


def test_killed(passt: str) -> None:
    with running() as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process)
        assert process.describe_end() == "it was ended by signal 9"


def test_it_ends_with_its_supervisor(passt: str) -> None:
    """Also when its socket stays open."""
    ours, theirs = make_pair()
    reader, writer = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        process = program.start(theirs, Network())
        os.write(writer, str(process.pid).encode())
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    pid = int(os.read(reader, 10))
    os.close(reader)
    settled(pid)
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, what="the end of passt, which is our child now")
    ours.close()
    theirs.close()


def test_a_port_that_was_taken_meanwhile(passt: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with running(f"{port}:80") as (process, _):
            assert ended(process)
            assert f"Failed to bind any port for '-t 127.0.0.1/{port}-" in process.describe_end()


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="passt is not installed") as missing, running():
        pass
    assert "Debian, Fedora and Arch" in missing.value.hint
    assert "pykrun doctor" in missing.value.hint


@pytest.mark.root
def test_no_ipv6_to_publish(tmp_path: Path, passt: str) -> None:
    internet = Internet(tmp_path, ipv6=False)
    try:
        with (
            internet.on_host(),
            pytest.raises(UsageError, match=r"\[::1\]:8080/tcp.*no IPv6"),
            running("[::1]:8080:80"),
        ):
            pass
    finally:
        internet.close()


@pytest.mark.root
def test_a_host_without_any_network(tmp_path: Path, passt: str) -> None:
    internet = Internet(tmp_path, routed=False)
    try:
        with internet.on_host(), running("8080:80") as (process, _):
            settled(process.pid)
            assert not ended(process, 0.2)
    finally:
        internet.close()


@pytest.mark.root
def test_no_user_namespaces(passt: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(SRC)!r}); " + (
        "from pykrun.net import make_pair, passt; from pykrun.machine import Network; import select;"
        "ours, theirs = make_pair(); process = passt.start(theirs, Network());"
        "select.select([process.pidfd], [], [], 10); end = process.describe_end(); print(end, passt.hint(end), sep='|')"
    )
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "user namespace" in done.stdout.partition("|")[0], done
    assert "docs/network.md" in done.stdout.partition("|")[2]
