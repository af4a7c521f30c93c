"""The cache: many at once, killed at any time, in use, by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pykrun.errors import ImageError, UsageError
from pykrun.image import kept_images, open_image, remove
from tests.image import make
from tests.image.make import file, folder, layer
from tests.support.command import ROOT

OPEN = "import sys; from pykrun.image import open_image; print(open_image(sys.argv[1], arch='x86_64').tree)"


def start(reference: Path, prelude: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [sys.executable, "-c", prelude + OPEN, str(reference)], env=environment, stdout=subprocess.PIPE, text=True
    )


def some_files(count: int) -> bytes:
    return layer(*(file(f"d{number % 50}/f{number}", b"x" * 100) for number in range(count)))


def test_several_at_once_unpack_once(tmp_path: Path, cache: Path) -> None:
    path = make.image(tmp_path / "image", some_files(2000))
    running = [start(path) for _ in range(6)]
    trees = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 6
    (tree,) = trees
    assert len(list(Path(tree.strip()).rglob("f*"))) == 2000
    assert len(list((cache / "trees").iterdir())) == 1
    assert not list((cache / "new").iterdir())


@pytest.mark.parametrize("after", [1, 300, 1990])
def test_killed_while_it_unpacks(tmp_path: Path, cache: Path, after: int) -> None:
    """It stops for good when it has made so many files; the next run takes nothing of it for complete."""
    path = make.image(tmp_path / "image", some_files(2000))
    prelude = f"""
import time
from pykrun.image.unpack import Unpacker
take, count = Unpacker._take, 0
def slowly(self, entry):
    global count
    count += 1
    take(self, entry)
    if count == {after}:
        print("there", flush=True)
        time.sleep(1000)
Unpacker._take = slowly
"""
    process = start(path, prelude)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    (unfinished,) = (cache / "new").iterdir()
    assert not list((cache / "trees").iterdir())
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert unfinished.exists()
    image = open_image(str(path), arch="x86_64")
    assert len(list(image.tree.rglob("f*"))) == 2000
    assert not list((cache / "new").iterdir()), "what was unfinished is gone"


def test_what_is_being_made_is_left_alone(tmp_path: Path, cache: Path) -> None:
    slow = make.image(tmp_path / "slow", some_files(10))
    prelude = """
import time
from pykrun.image.unpack import Unpacker
finish = Unpacker.finish
def slowly(self):
    print("there", flush=True)
    input()
    finish(self)
Unpacker.finish = slowly
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", prelude + OPEN, str(slow)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    open_image(str(make.image(tmp_path / "other", layer(file("a")))), arch="x86_64")
    assert len(list((cache / "new").iterdir())) == 1
    out, _ = process.communicate("\n", timeout=60)
    assert Path(out.strip()).is_dir()


def test_names_and_removal(tmp_path: Path, cache: Path) -> None:
    path = make.image(tmp_path / "image", layer(folder("d", mode=0), file("d/f", b"x")))
    image = open_image(str(path), arch="x86_64")
    open_image(f"oci:{path}:latest", arch="x86_64")
    (kept,) = kept_images()
    assert kept.names == (str(path), f"{path}:latest")
    assert kept.identity == image.chain
    held = image.hold()
    with pytest.raises(UsageError, match="a VM is using that image"):
        remove(str(path))
    os.close(held)
    with pytest.raises(UsageError, match="there is no image 'nothing'"):
        remove("nothing")
    remove(image.chain[:12])
    assert kept_images() == []
    assert not list((cache / "new").iterdir())
    assert not list((cache / "names").iterdir())
    with pytest.raises(UsageError, match="just removed"):
        image.hold()
    assert open_image(str(path), arch="x86_64").tree.is_dir()


def test_a_cache_that_others_can_enter(tmp_path: Path, cache: Path) -> None:
    path = make.image(tmp_path / "image", layer(file("a")))
    cache.mkdir(parents=True)
    cache.chmod(0o755)
    with pytest.raises(ImageError, match=r"yours alone.*chmod 700"):
        open_image(str(path), arch="x86_64")


@pytest.mark.root
def test_an_ordinary_user(tmp_path: Path) -> None:
    """Everything is his, nothing is closed to him, and what was lost is counted."""
    members = (
        folder("closed", mode=0),
        file("closed/shadow", b"x", mode=0, uid=5),
        make.entry("null", b"3", devmajor=1, devminor=3),
        file(".wh.x"),
    )
    path = make.image(tmp_path / "image", layer(folder("x", mode=0), file("x/y")), layer(*members))
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    script = """
import json, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from pykrun.image import open_image
image = open_image(sys.argv[1], arch="x86_64")
os.chdir(image.tree)
mode = os.stat("closed").st_mode & 0o777
print(json.dumps([open("closed/shadow").read(), sorted(os.listdir(".")), image.lost, mode]))
"""
    for folder_ in (tmp_path, *tmp_path.parents[:3]):
        if folder_.stat().st_mode & 0o005 != 0o005 and folder_ != Path("/"):
            folder_.chmod(folder_.stat().st_mode | 0o005)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "XDG_CACHE_HOME": str(home)}
    prelude = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import pykrun.image.opened, json, encodings.idna\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + script, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    content, names, lost, mode = json.loads(done.stdout)
    assert (content, names, mode) == ("x", ["closed"], 0o700)
    assert lost == {"owners": 1, "device nodes": 1}


def test_a_full_disk_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    """A limit on the size of files stands in for it: the same errors, from the same calls."""
    path = make.image(tmp_path / "image", layer(file("small", b"x"), file("large", bytes(3 << 20))))
    prelude = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", prelude + OPEN, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "layer 1: cannot unpack 'large': File too large" in done.stderr
    assert not list((cache / "new").iterdir())
    assert not list((cache / "trees").iterdir())
