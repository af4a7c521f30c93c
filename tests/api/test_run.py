"""pykrun.run: subprocess.run, in a VM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pykrun
from pykrun import PykrunError, Root, UsageError
from tests.api.conftest import LIMIT

Box = Callable[[], Root]


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_everything_of_a_result(box: Box, engine: str) -> None:
    result = pykrun.run(sh("cat; echo err >&2; exit 3"), root=box(), engine=engine, input=b"in\xff\r\n", timeout=LIMIT)
    assert (result.exit_code, result.signal) == (3, 0)
    assert (result.stdout, result.stderr) == (b"in\xff\r\n", b"err\n")
    assert result.args == tuple(sh("cat; echo err >&2; exit 3"))
    assert result.engine == engine
    assert result.isolation
    phases = ["launched", "init", "started", "output", "exited", "done", "ended"]
    assert [name for name in result.timing if name in phases] == phases
    assert sorted(result.timing.values()) == list(result.timing.values())
    with pytest.raises(subprocess.CalledProcessError) as caught:
        result.check()
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, b"in\xff\r\n", b"err\n")


@pytest.mark.uml
def test_text_and_surroundings(box: Box) -> None:
    result = pykrun.run(
        ["/bin/sh", "-c", 'echo "$GREETING $PWD $(hostname) $(id -u):$(id -g)"; printf "a\\r\\nü"; ulimit -n'],
        root=box().directory("/data/ü"),
        engine="uml",
        text=True,
        env={"GREETING": "hello"},
        workdir="/data/ü",
        hostname="inside",
        user=(7, 8),
        rlimits={"nofile": (64, 128)},
        timeout=LIMIT,
    )
    assert result.stdout == "hello /data/ü inside 7:8\na\nü64\n"
    result.check()


@pytest.mark.uml
def test_check_raises_as_subprocess_does(box: Box) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        pykrun.run(sh("kill -9 $$"), root=box(), engine="uml", check=True, timeout=LIMIT)
    assert caught.value.returncode == -9
    with pytest.raises(subprocess.CalledProcessError) as caught:
        pykrun.run(["/bin/missing"], root=box(), engine="uml", check=True, timeout=LIMIT)
    assert caught.value.returncode == 127
    assert "/bin/missing" in caught.value.__notes__[0]


@pytest.mark.uml
@pytest.mark.parametrize("text", [False, True])
def test_a_timeout_keeps_what_was_written(box: Box, text: bool) -> None:
    script = "printf 'so far \\303'; echo err >&2; exec sleep 1000"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        pykrun.run(sh(script), root=box(), engine="uml", text=text, timeout=8)
    assert caught.value.timeout == 8
    assert caught.value.stdout == ("so far \ufffd" if text else b"so far \xc3")
    assert caught.value.stderr == ("err\n" if text else b"err\n")


@pytest.mark.uml
def test_stderr_can_go_where_stdout_goes(box: Box) -> None:
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.1; done"
    result = pykrun.run(sh(script), root=box(), engine="uml", stderr=pykrun.STDOUT, text=True, timeout=LIMIT)
    assert (
        sorted((result.stdout or "").split("\n"))
        == sorted(f"{k} {i}" for k in ("out", "err") for i in "123") + [""][:0]
        or result.stdout.count("\n") == 6
    )
    assert result.stderr is None


@pytest.mark.uml
def test_streams_of_our_own(box: Box, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    with open(tmp_path / "in", "wb") as source:
        source.write(b"from a file\n")
    with open(tmp_path / "in", "rb") as source, open(tmp_path / "err", "wb") as target:
        result = pykrun.run(
            sh("cat; echo err >&2"), root=box(), engine="uml", stdin=source, stdout=writes, stderr=target, timeout=LIMIT
        )
    os.close(writes)
    with open(reads, "rb") as stream:
        assert stream.read() == b"from a file\n"
    assert (tmp_path / "err").read_bytes() == b"err\n"
    assert (result.stdout, result.stderr) == (None, None)


@pytest.mark.uml
def test_without_capturing_the_streams_are_ours(box: Box, capfd: pytest.CaptureFixture[str]) -> None:
    pykrun.run(sh("echo out; echo err >&2"), root=box(), engine="uml", capture_output=False, timeout=LIMIT)
    assert capfd.readouterr() == ("out\n", "err\n")


@pytest.mark.uml
def test_one_root_serves_many_vms_and_asks_its_functions_each_time(box: Box, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").write_text("shared\n")
    (tmp_path / "disk").write_bytes(b"on the disk\n".ljust(4096, b"\0"))
    (tmp_path / "host").write_text("of the host\n")
    count = iter(range(100))
    root = (
        box()
        .file("/etc/bytes", b"bytes\n")
        .file("/etc/view", memoryview(b"a view\n"))
        .file("/etc/text", "text ü\n", mode=0o600)
        .file("/etc/path", tmp_path / "host")
        .file("/etc/call", lambda: f"call {next(count)}\n")
        .secret("/key", b"secret\n")
        .directory("/made", mode=0o711)
        .volume(tmp_path / "shared", "/mnt/shared", read_only=True)
        .disk(tmp_path / "disk", read_only=True)
    )
    script = (
        "cat /etc/bytes /etc/view /etc/text /etc/path /etc/call /key /mnt/shared/file; cat /key; "
        "head -c 12 /dev/vda; stat -c %a /made /etc/text; touch /mnt/shared/new || echo refused"
    )
    for number in range(2):
        result = pykrun.run(sh(script), root=root, engine="uml", text=True, timeout=LIMIT)
        assert result.stdout == (
            f"bytes\na view\ntext ü\nof the host\ncall {number}\nsecret\nshared\non the disk\n711\n600\nrefused\n"
        )


@pytest.mark.uml
def test_a_directory_and_a_place_to_write_over_it(busybox: Path, tmp_path: Path) -> None:
    for name in ("bin", "dev", "proc", "sys"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "sh").write_bytes(busybox.read_bytes())
    (tmp_path / "bin" / "sh").chmod(0o755)
    root = Root(tmp_path, read_only=True).tmpfs("/tmp", size=1 << 20).tmpfs("/var/deep/own", mode=0o700)
    script = (
        "set -e; cd /tmp; echo '#!/bin/sh\necho executed' > x; chmod 755 x; ./x; stat -c %a /tmp /var/deep/own; "
        "df -k /tmp | { read a; read b size c; echo $size; }; ! touch /bin/new 2>/dev/null"
    )
    for tool in ("stat", "df", "touch", "chmod"):
        root.file(f"/bin/{tool}", busybox, mode=0o755)
    result = pykrun.run(["/bin/sh", "-c", script], root=root, engine="uml", text=True, timeout=LIMIT)
    assert (result.stdout, result.stderr) == ("executed\n1777\n700\n1024\n", "")
    assert not (tmp_path / "var").exists()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "no option 'colour'"),
    ({"engine": "bochs"}, "engine is one of"),
    ({"accel": "fast"}, "accel is one of"),
    ({"net": "host"}, "net is one of"),
    ({"sandbox": "never"}, "sandbox is one of"),
    ({"cpus": 0}, "cpus is a whole number"),
    ({"cpus": "2"}, "cpus is a whole number"),
    ({"memory": True}, "memory is a whole number"),
    ({"memory": 1.5}, "memory is a whole number"),
    ({"user": -1}, "user is a number or two"),
    ({"user": "root"}, "user is a number or two"),
    ({"user": (1, 2, 3)}, "user is a number or two"),
    ({"env": ["A=1"]}, "env is a mapping"),
    ({"env": {"A": 1}}, "env: 'A' is 1"),
    ({"env": {"A=B": "1"}}, "env: 'A=B' cannot be a variable"),
    ({"rlimits": {"nofiles": (1, 1)}}, "no resource limit 'nofiles'"),
    ({"rlimits": {"nofile": 3}}, "rlimits 'nofile' is a pair"),
    ({"rlimits": {"nofile": (2, 1)}}, "rlimits 'nofile': the soft limit"),
    ({"hostname": "a b"}, "hostname wants 1 to 64 bytes"),
    ({"workdir": 3}, "workdir is a text"),
    ({"workdir": "/a\0b"}, "workdir has a NUL byte"),
    ({"grace": -1}, "grace is a number of seconds"),
    ({"kernel_args": "quiet"}, "kernel_args is a list"),
    ({"kernel_args": ["a b"]}, "kernel_args: 'a b'"),
    ({"publish": [80]}, "publish is a list"),
    ({"publish": ["many:80"]}, "many"),
    ({"root_fstype": "ext4"}, "root_fstype is for a root_disk"),
    ({"root_disk": "/dev/sda"}, "root_disk is a disk or partition"),
    ({"kernel": 3}, "kernel is a path"),
    ({"root": 3}, "a root is a path"),
    ({"root": None, "read_only": True}, "read_only is for a root that is a directory"),
    ({"root": Root(), "read_only": True}, "read_only beside a Root"),
    ({"root": "/does/not/exist"}, "/does/not/exist"),
    ({"input": "x", "stdin": 0}, "input and stdin"),
    ({"input": 3}, "input is bytes or text"),
    ({"stdin": pykrun.STDOUT}, "stdin cannot be STDOUT"),
    ({"stdout": -7}, "stdout cannot be -7"),
    ({"stdout": 98765}, "stdout cannot be 98765"),
    ({"stdout": "file"}, "stdout cannot be 'file'"),
    ({"encoding": "utf-88"}, "there is no encoding 'utf-88'"),
    ({"encoding": "hex"}, "there is no encoding 'hex'"),
    ({"encoding": 3}, "there is no encoding 3"),
    ({"text": True, "errors": "strickt"}, "errors cannot be 'strickt'"),
    ({"errors": "a\0b"}, "errors cannot be"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_what_cannot_be_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        pykrun.run(["/bin/true"], **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["uname -a", b"ls", [], [""], [3], ["/bin/sh", None], ["/bin/a\0b"], 3])
def test_what_is_no_command(command: Any) -> None:
    with pytest.raises(UsageError, match="command"):
        pykrun.run(command)


def test_what_is_no_root(tmp_path: Path) -> None:
    for wrong in (
        lambda: Root(read_only=True),
        lambda: Root(tmp_path, cache="sometimes"),
        lambda: Root().file("relative", b""),
        lambda: Root().file("/a/../b", b""),
        lambda: Root().file("/x", 3),  # type: ignore[arg-type]
        lambda: Root().file("/x", b"").file("/x", b""),
        lambda: Root().file("/x", b"").secret("/x", b""),
        lambda: Root().tmpfs("/x", size=0),
        lambda: Root().tmpfs("x"),
        lambda: Root().volume(3, "/x"),  # type: ignore[arg-type]
        lambda: Root().volume(tmp_path, "/x", cache="no"),
        lambda: Root().volume(tmp_path, "/x").volume("/usr", "/x/"),
        lambda: Root().disk(tmp_path, format="vdi"),
        lambda: Root().file("/x", lambda: 3).tree(),  # type: ignore[arg-type,return-value]
    ):
        with pytest.raises(UsageError):
            wrong()


def test_an_image_is_the_one_that_was_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "a:b"
    here.mkdir()
    (here / "app.tar").write_bytes(b"")
    (here / "img").mkdir()
    monkeypatch.chdir(here)
    for given, expected in (
        ("app.tar", f"{here}/app.tar"),
        ("app.tar:v1", f"{here}/app.tar:v1"),
        ("./img:v1", f"{here}/img:v1"),
        ("oci:./img:v1", f"oci:{here}/img:v1"),
        ("docker-archive:app.tar:localhost/app:1", f"docker-archive:{here}/app.tar:localhost/app:1"),
        ("oci:../none:v1", f"oci:{tmp_path}/none:v1"),
        (Path("img"), f"{here}/img"),
        ("debian:12", "debian:12"),
        ("docker://debian:12", "docker://debian:12"),
    ):
        root = Root(image=given)
        assert root.image == expected
        monkeypatch.chdir("/")
        assert Root(image=expected).image == expected
        monkeypatch.chdir(here)
    with pytest.raises(UsageError, match="no file, folder or image name"):
        Root(image="Not A Name")


def test_what_a_function_raises_is_the_callers() -> None:
    def fail() -> bytes:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pykrun.run(["/x"], root=Root().file("/x", fail))


def test_no_vm_is_an_error_and_no_exit_code(tmp_path: Path) -> None:
    with pytest.raises(PykrunError, match="kernel"):
        pykrun.run(["/x"], kernel=tmp_path / "none", engine="uml")
