"""Which folder is the cache: one rule, in Python and in the shell."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
SHELL = f'{(ROOT / "scripts/common.sh").read_text()}\nprintf "%s\\n" "$cache"'
PYTHON = f"""
import os, pwd, sys
sys.path.insert(0, {str(ROOT / "src")!r})
from pykrun.host.cache import cache_directory
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
print(cache_directory())
"""
"""It changes the user by itself: the interpreter may be one that nobody else can start."""


@pytest.fixture
def homes() -> Iterator[Path]:
    """Homes: one to write, one that is root's, with a cache to read and not to read; open to all, as pytest's own
    temporary folders are not."""
    with tempfile.TemporaryDirectory(prefix="pk") as name:
        top = Path(name)
        for below in ("own", "foreign", "filled/.cache/pykrun", "closed/.cache/pykrun", "dangling", "tmp"):
            (top / below).mkdir(parents=True)
        (top / "dangling/.cache").symlink_to("nowhere")
        for path in (top, *top.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        (top / "closed/.cache/pykrun").chmod(0o700)
        (top / "tmp").chmod(0o1777)
        for below in ("own", "dangling"):
            os.chown(top / below, NOBODY, NOBODY)
        yield top


def folders(home: str | None, homes: Path, user: int, **more: str) -> set[str]:
    """What the shell and Python say."""
    given = {"PATH": os.environ["PATH"], "TMPDIR": f"{homes}/tmp", **more}
    if home is not None:
        given["HOME"] = home
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    said = set()
    for command in (
        [*as_user, "sh", "-euc", f"here=/nowhere\n{SHELL}"],
        [sys.executable, "-I", "-S", "-c", PYTHON, str(user)],
    ):
        done = subprocess.run(command, env=given, cwd="/", capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        said.add(done.stdout.rstrip("\n"))
    return said


@pytest.mark.root
@pytest.mark.parametrize("user", [0, NOBODY])
def test_a_home_of_ones_own(homes: Path, user: int) -> None:
    assert folders(f"{homes}/own", homes, user) == {f"{homes}/own/.cache/pykrun"}
    assert folders(f"{homes}/filled", homes, user) == {f"{homes}/filled/.cache/pykrun"}
    assert not list((homes / "tmp").iterdir())


@pytest.mark.root
@pytest.mark.parametrize("home", ["foreign", "closed", "dangling", "nowhere"])
def test_a_home_of_no_use(homes: Path, home: str) -> None:
    assert folders(f"{homes}/{home}", homes, NOBODY) == {f"{homes}/tmp/pykrun-{NOBODY}"}
    assert (homes / f"tmp/pykrun-{NOBODY}").stat().st_mode & 0o777 == 0o700
    assert not (homes / "nowhere").exists()


@pytest.mark.root
def test_a_spare_folder_of_somebody_else_is_not_taken(homes: Path) -> None:
    (homes / f"tmp/pykrun-{NOBODY}").mkdir(mode=0o700)
    assert folders(f"{homes}/foreign", homes, NOBODY) == {f"{homes}/foreign/.cache/pykrun"}
    (homes / f"tmp/pykrun-{NOBODY}").rmdir()
    (homes / f"tmp/pykrun-{NOBODY}").symlink_to(homes / "own")
    assert folders(f"{homes}/foreign", homes, NOBODY) == {f"{homes}/foreign/.cache/pykrun"}


@pytest.mark.root
@pytest.mark.parametrize("home", [None, "", "relative"])
def test_no_home_is_that_of_the_account(homes: Path, home: str | None) -> None:
    import pwd

    assert folders(home, homes, 0) == {f"{pwd.getpwuid(0).pw_dir}/.cache/pykrun"}


@pytest.mark.root
def test_what_is_asked_for_is_taken_as_it_is(homes: Path) -> None:
    asked = f"{homes}/foreign/x"
    assert folders(f"{homes}/own", homes, NOBODY, XDG_CACHE_HOME=asked) == {f"{asked}/pykrun"}
    assert folders(f"{homes}/own", homes, NOBODY, XDG_CACHE_HOME="relative") == {f"{homes}/own/.cache/pykrun"}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "read-only"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], check=True, timeout=60)
    yield place
    subprocess.run(["umount", place], check=True, timeout=60)


@pytest.mark.root
@pytest.mark.parametrize("command", [["./setup"], ["./demo"], ["./pykrun", "doctor"], ["./pykrun", "lib"]])
def test_a_cache_that_cannot_be_written_is_told_with_the_remedy(read_only: Path, command: list[str]) -> None:
    given = {**os.environ, "XDG_CACHE_HOME": str(read_only)}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "set XDG_CACHE_HOME to a folder that you can write" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "--debug" not in done.stderr
