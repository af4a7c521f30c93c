"""Container images and writable layers from the API: an image says what to run, a layer takes what is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pykrun
from pykrun import Root, UsageError
from pykrun.image import kept_images, remove
from tests.boot.test_images import above, base
from tests.image import make

pytestmark = [pytest.mark.uml, pytest.mark.root]

CONFIG = {
    "Entrypoint": ["sh", "-c", 'echo "$0 $@"; id -u; pwd; echo "$HOME $A"; cat /etc/motd; echo x > /old/made'],
    "Cmd": ["one"],
    "Env": ["PATH=/bin", "A=image"],
    "User": "web",
    "WorkingDir": "/srv/web",
}


@pytest.fixture
def archive(tmp_path: Path, busybox: Path) -> Iterator[Path]:
    yield make.docker_archive(tmp_path / "image.tar", [base(busybox, tmp_path), above()], CONFIG)
    for kept in kept_images():
        if any(name.startswith(f"{tmp_path}/") for name in kept.names):
            remove(kept.identity)


def test_an_image_says_what_to_run(archive: Path) -> None:
    root = Root(image=archive).file("/etc/motd", "virtual\n")
    result = pykrun.run([], root=root, text=True, engine="uml")
    assert result.stdout == "one\n33\n/srv/web\n/srv/web image\nvirtual\n".replace("one\n", "one \n")
    assert "Permission denied" in result.stderr  # web may not write there, and the image is unchanged anyway


def test_the_callers_words_come_first(archive: Path) -> None:
    script = "id -u; pwd; echo $A; echo mine > /old/new; cat /old/new"
    command = ["-c", script]
    result = pykrun.run(
        command, image=archive, entrypoint="/bin/sh", user="root", workdir="/tmp", env={"A": "mine"}, text=True
    )
    assert (result.stdout, result.exit_code) == ("0\n/tmp\nmine\nmine\n", 0), result
    again = pykrun.run(["/old/new"], image=archive, entrypoint="/bin/cat", user=0, text=True)
    assert again.stdout == "new\n", "what was written is gone"
    none = pykrun.run(["/bin/cat", "/old/new"], image=archive, entrypoint="", user=0, text=True)
    assert none.stdout == "new\n", "the image's entrypoint is away"


def test_a_read_only_image_has_no_layer(archive: Path) -> None:
    root = Root(image=archive, read_only=True)
    result = pykrun.run(["-c", "echo x > /tmp/x"], root=root, entrypoint="/bin/sh", user="0:0", text=True)
    assert "Read-only file system" in result.stderr


def test_a_layer_over_a_directory(tmp_path: Path, busybox: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/sh").write_bytes(busybox.read_bytes())
    (tree / "bin/sh").chmod(0o755)
    (tree / "file").write_text("old\n")
    command = ["/bin/sh", "-c", "read line < /file; echo $line; echo new > /file"]
    forgotten = [pykrun.run(command, root=tree, writable="memory", text=True).stdout for _ in range(2)]
    assert forgotten == ["old\n", "old\n"]
    kept = [pykrun.run(command, root=tree, writable=tmp_path / "layer", text=True).stdout for _ in range(2)]
    assert kept == ["old\n", "new\n"]
    assert (tree / "file").read_text() == "old\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "/", "image": "x"}, "a root is a directory or an image"),
        ({"root": "/", "entrypoint": "x"}, "entrypoint is for an image"),
        ({"root": Root("/"), "image": "x"}, "image beside a Root"),
        ({"root": Root("/"), "writable": "memory"}, "writable beside a Root"),
        ({"image": "oci:/nowhere"}, "/nowhere"),
        ({"root": "/", "read_only": True, "user": "web"}, "user is a number or two"),
        ({"root": "/", "writable": ""}, "writable"),
    ],
)
def test_one_clear_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pykrun.run(["/bin/true"], **options)  # type: ignore[arg-type]
