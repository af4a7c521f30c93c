"""Container images as the guest's root, on both engines: made by the test, run as `docker run` would run them."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pykrun.image import kept_images, remove
from tests.boot.vm import Vm, finish, read_line
from tests.image import make
from tests.image.make import Member, file, folder, hard, layer, link
from tests.support.command import cache_folder

APPLETS = (
    "sh",
    "cat",
    "id",
    "env",
    "ls",
    "rm",
    "mkdir",
    "stat",
    "pwd",
    "sleep",
    "sync",
    "mv",
    "touch",
    "mount",
    "chmod",
)
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv/web:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:44:\nextra:x:77:web\n"


def base(busybox: Path, mark: Path) -> bytes:
    """A small distribution, with a mark: no other test has the same tree in the cache."""
    members: list[Member] = [
        folder(name) for name in ("bin", "etc", "root", "srv", "srv/web", "tmp", "old", "old/deep")
    ]
    members.append(file("bin/busybox", busybox.read_bytes(), mode=0o755))
    members += [link(f"bin/{name}", "busybox") for name in APPLETS]
    members += [file("etc/passwd", PASSWD), file("etc/group", GROUP), file("old/deep/file", b"old"), file("gone", b"x")]
    members += [folder("srv/mine", uid=33, gid=44), file("srv/mine/file", b"mine\n", uid=33, gid=44, mode=0o600)]
    return layer(*members, hard("etc/again", "etc/passwd"), file("root/mark", str(mark).encode()))


def above() -> bytes:
    """A layer that takes something away."""
    return layer(file(".wh.gone"), folder("old"), file("old/.wh..wh..opq"), file("old/new", b"new\n"))


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cache is that of all tests, for it has the kernels too: what a test unpacked goes at its end."""
    yield
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder()))
    for kept in kept_images():
        if any(name.startswith(f"{tmp_path}/") for name in kept.names):
            remove(kept.identity)


@pytest.fixture
def archive(tmp_path: Path, busybox: Path) -> Path:
    return make.docker_archive(tmp_path / "image.tar", [base(busybox, tmp_path), above()], {"Env": ["PATH=/bin"]})


def shell(script: str, *options: str | Path) -> list[str]:
    return [*map(str, options), "--", "/bin/sh", "-c", script]


@pytest.mark.root
def test_an_archive(vm: Vm, archive: Path) -> None:
    script = """ls /; ls /old; cat /old/new; stat -c '%u %a %h' /srv/mine/file /etc/again
        echo changed > /old/new; rm /etc/group; mkdir /made; cat /old/new; ls -d /made /etc/group
        cat /etc/hosts; exit 9"""
    expected = "bin\ndev\netc\nold\nproc\nroot\nsrv\nsys\ntmp\ntool\n"
    expected += "new\nnew\n33 600 1\n0 644 2\nchanged\n/made\n"
    result = vm.run(*shell(script, "--image", archive))
    assert (result.code, result.err) == (9, b"ls: /etc/group: No such file or directory\n"), result
    assert result.out.decode() == f"{expected}127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    again = vm.run("--image", str(archive), "--", "cat", "/old/new", "/made")
    assert (again.code, again.out) == (1, b"new\n"), "what was changed is gone the next time"


CONFIG = {
    "Entrypoint": ["sh", "-c", 'echo "$0 $@"; id; pwd; echo "$HOME $A $B"'],
    "Cmd": ["one", "two"],
    "Env": ["PATH=/bin", "A=image", "B=image"],
    "User": "web",
    "WorkingDir": "/srv/new/er",
}
WEB = "uid=33(web) gid=44(web) groups=77(extra)"


@pytest.mark.parametrize(
    ("options", "words", "expected"),
    [
        ([], [], f"one two\n{WEB}\n/srv/new/er\n/srv/web image image\n"),
        (
            ["-u", "33:0", "-w", "/tmp", "-e", "A=mine"],
            ["x"],
            "x \nuid=33(web) gid=0(root)\n/tmp\n/srv/web mine image\n",
        ),
        (["-u", "5", "-e", "HOME=/h"], ["x", "--", "y"], "x -- y\nuid=5 gid=0(root)\n/srv/new/er\n/h image image\n"),
        (["--entrypoint", "id"], [], f"{WEB}\n"),
        (["--entrypoint", "/bin/id"], ["-u"], "33\n"),
        (["--entrypoint", ""], ["pwd"], "/srv/new/er\n"),
    ],
)
def test_the_configuration(
    vm_once: Vm, tmp_path: Path, busybox: Path, options: list[str], words: list[str], expected: str
) -> None:
    path = make.image(tmp_path / "image", base(busybox, tmp_path), above(), config=CONFIG, how="")
    result = vm_once.run("--image", str(path), *options, *(["--", *words] if words else []))
    assert (result.code, result.out.decode(), result.err) == (0, expected, b"")


def run_config(vm: Vm, tmp_path: Path, busybox: Path, config: Mapping[str, Any], *options: str) -> tuple[int, bytes]:
    path = make.image(tmp_path / "image", base(busybox, tmp_path), config=config, how="")
    result = vm.run("--image", str(path), *options)
    return result.code, result.err


def test_what_cannot_be(vm_once: Vm, tmp_path: Path, busybox: Path) -> None:
    code, said = run_config(vm_once, tmp_path, busybox, {"User": "nobody", "Cmd": ["/bin/sh"]})
    assert (code, b"no user 'nobody'" in said) == (125, True)
    for number, (config, options, reason) in enumerate(
        (
            ({}, [], b"does not say what to execute"),
            ({"Cmd": ["/missing"]}, [], b"Couldn't execute '/missing'"),
            ({"Cmd": ["/bin/sh"]}, ["--root", "/"], b"two roots"),
            ({"Cmd": ["/bin/sh"]}, ["--root-disk", "vda"], b"two roots"),
            ({"Cmd": ["/bin/sh"]}, ["--arch", "aarch64"], b"is an image for amd64, the guest is arm64"),
        )
    ):
        code, said = run_config(vm_once, tmp_path / str(number), busybox, config, *options)
        assert code == (127 if config == {"Cmd": ["/missing"]} else 125)
        assert reason in said
    assert b"--entrypoint is for an --image" in vm_once.run("--entrypoint", "x").err


@pytest.mark.root
def test_without_a_layer(vm_once: Vm, archive: Path) -> None:
    """--read-only: nothing can be written, and no layer is made."""
    result = vm_once.run(*shell("echo x > /x || echo refused; mount | cat", "--image", archive, "--read-only"))
    assert result.out.startswith(b"refused\n")
    assert b"overlay" not in result.out


@pytest.mark.root
def test_the_stop_signal(vm_once: Vm, tmp_path: Path, busybox: Path) -> None:
    script = "trap 'echo asked; exit 6' QUIT; echo ready; while :; do sleep 0.1; done"
    config = {"StopSignal": "SIGQUIT", "Cmd": ["/bin/sh", "-c", script]}
    path = make.image(tmp_path / "image", base(busybox, tmp_path), config=config, how="")
    process = vm_once.start("--image", str(path))
    assert read_line(process) == b"ready\n"
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert (result.code, result.out) == (6, b"asked\n")


@pytest.mark.root
def test_a_user_of_the_image_owns_his_files(vm_once: Vm, archive: Path) -> None:
    script = "cat /srv/mine/file; echo more > /srv/mine/file; cat /srv/mine/file; touch /etc/x || exit 4"
    result = vm_once.run(*shell(script, "--image", archive, "-u", "web"))
    assert (result.code, result.out) == (4, b"mine\nmore\n")


@pytest.mark.root
def test_the_images_command(vm_once: Vm, tmp_path: Path, busybox: Path) -> None:
    """Listed by the name it was asked for by; not removed while a VM runs in it."""
    path = make.image(tmp_path / "image", base(busybox, tmp_path), config={"Cmd": ["/bin/sh", "-c", "echo r; cat"]})
    process = vm_once.start("--image", str(path), stdin=-1)
    assert read_line(process) == b"r\n"
    listed = vm_once.pykrun(["image", "ls"]).stdout.decode()
    assert str(path) in listed
    refused = vm_once.pykrun(["image", "rm", str(path)])
    assert (refused.returncode, b"a VM is using that image" in refused.stderr) == (2, True)
    assert finish(process, b"").code == 0
    assert vm_once.pykrun(["image", "rm", str(path)]).returncode == 0
    assert str(path) not in vm_once.pykrun(["image", "ls", "--json"]).stdout.decode()
