"""The last stage: what it refuses, that it gives the same bytes, and the native fallback; the real blob."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pykrun import blob
from pykrun.blob import archive, hot, image, lookup, recipe
from pykrun.blob.toolchain import Musl
from pykrun.errors import BlobError
from tests.blob.conftest import Maker, write_package

SOURCE = lookup.FOLDER.parent.parent
PT_INTERP, PT_TLS, PT_GNU_STACK = 3, 7, 0x6474E551
NATIVE_TOOLS = ("gcc", "as", "ld", f"python{recipe.PYTHON}")


# ---- what must not get into a blob


@pytest.mark.parametrize(
    "statement", ["import os", "from json import loads", "import _random", "from krun_init.no import x"]
)
def test_an_import_that_is_not_linked_is_named(make: Maker, statement: str) -> None:
    module = statement.split()[1]
    with pytest.raises(BlobError) as caught:
        make(
            main="from krun_init import part\n\ndef main(): pass\n",
            part=f"import posix\n\ndef late():\n    {statement}\n",
        )
    assert f"krun_init.part, line 4: imports {module}, which is not linked" in caught.value.message
    assert "posix" in caught.value.message


def test_a_syntax_error_is_named(make: Maker) -> None:
    with pytest.raises(BlobError, match=r"krun_init\.main, line 1"):
        make(main="def main(: pass\n")


def test_an_error_at_import_is_named(make: Maker) -> None:
    with pytest.raises(BlobError, match="ZeroDivisionError"):
        make(main="1 / 0\ndef main(): pass\n")


@pytest.mark.parametrize("value", ["posix.getpid()", "time.time()", "posix.urandom(8)", "time.monotonic()"])
def test_nothing_of_the_run_may_be_kept(make: Maker, value: str) -> None:
    with pytest.raises(BlobError, match="differ"):
        make(main=f"import posix, time\nKEPT = {value}\ndef main(): pass\n")


def test_memory_that_would_be_lost_is_refused(make: Maker) -> None:
    with pytest.raises(BlobError, match="memory that would be lost"):
        make(main="KEPT = bytearray(1 << 20)\ndef main(): pass\n")


# ---- the same bytes


def test_the_folder_has_no_part_in_the_bytes(
    core: archive.Archive, musl: Musl, tmp_path: Path, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import posix\ndef main():\n    posix.write(1, b'x')\n"
    first = make("init", "--version", main=source).read_bytes()
    deep = tmp_path / "a folder with another name" / "and another depth"
    package = write_package(deep, {"main": source})
    stage = deep / "stage"
    stage.mkdir()
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    second = image.make_snapshot(package, core, musl, stage, deep / "log", start=("init", "--version")).read_bytes()
    assert first == second
    assert b"another name" not in second


@pytest.mark.full
def test_from_nothing_twice(tmp_path: Path, musl: Musl) -> None:
    """CPython's source fetched and compiled, everything, in two caches. From a copy: a checkout may be worked on."""
    source = tmp_path / "src"
    for package in ("pykrun", "krun_init"):
        shutil.copytree(SOURCE / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    blobs = []
    for name in ("one", "two and longer"):
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / name), "PYTHONPATH": str(source)}
        command = [sys.executable, "-m", "pykrun.blob"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
        blobs.append(Path(done.stdout.strip()).read_bytes())
    assert blobs[0] == blobs[1]


# ---- the real one


def test_it_needs_nothing_and_is_small(real_blob: blob.Blob) -> None:
    content = real_blob.read()
    assert len(content) == real_blob.size <= 3_500_000
    assert content[:4] == b"\x7fELF"
    at, count = struct.unpack_from("<Q", content, 32)[0], struct.unpack_from("<H", content, 56)[0]
    kinds = [struct.unpack_from("<I", content, at + 56 * number)[0] for number in range(count)]
    assert PT_INTERP not in kinds
    assert PT_TLS not in kinds


def test_it_tells_its_version(real_blob: blob.Blob) -> None:
    done = subprocess.run([real_blob.path, "--version"], capture_output=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"krun_init ")
    assert done.stdout.count(b"\n") == 1


def test_the_functions_of_its_start_lie_together(real_blob: blob.Blob) -> None:
    if real_blob.recipe != "snapshot":
        pytest.skip("only a snapshot has its functions sorted")
    pages = {address >> 12 for address in hot.trace(real_blob.path, "--version") if address < 1 << 32}
    assert 10 < len(pages) < 25, "85 when they are not sorted: make hot.txt anew"


def test_a_start_takes_few_page_faults(real_blob: blob.Blob, tmp_path: Path) -> None:
    if real_blob.recipe != "snapshot":
        pytest.skip("only a snapshot has what a start needs side by side")
    program = tmp_path / "init"
    program.write_bytes(real_blob.read())
    program.chmod(0o755)
    null = os.open(os.devnull, os.O_WRONLY)
    pid = os.posix_spawn(program, [str(program), "--version"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    os.close(null)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    assert usage.ru_minflt + usage.ru_majflt < 32, "about 20; near 60 when nothing is sorted"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["/bin/sh"], ["--version", "x"]])
def test_it_refuses_to_be_anything_but_init(real_blob: blob.Blob, arguments: list[str]) -> None:
    done = subprocess.run([real_blob.path, *arguments], capture_output=True, timeout=10)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"PID 1" in done.stderr


def test_no_path_of_this_machine_is_in_it(real_blob: blob.Blob) -> None:
    content = real_blob.read()
    for path in (SOURCE, lookup.blob_folder().parent, Path.home()):
        if path != Path("/"):
            assert os.fsencode(path) + b"/" not in content


# ---- without musl


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH that has a compiler and Python, and no musl."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in NATIVE_TOOLS:
        found = shutil.which(name, path="/usr/bin") or shutil.which(name)
        if found is None:
            pytest.skip(f"no {name}")
        (folder / name).symlink_to(found)
    return folder


def build_with(path: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(path), "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "pykrun.blob"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_without_musl_the_systems_python_is_taken_with_a_warning(tools: Path, tmp_path: Path) -> None:
    if not list(Path("/usr/lib").glob(f"python{recipe.PYTHON}/config-*/libpython{recipe.PYTHON}.a")):
        pytest.skip(f"no static libpython (apt-get install libpython{recipe.PYTHON}-dev)")
    done = build_with(tools, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    warning = next(line for line in done.stderr.splitlines() if "warning" in line)
    assert "musl-tools" in warning
    program = done.stdout.strip()
    version = subprocess.run([program, "--version"], capture_output=True, timeout=10)
    assert (version.returncode, version.stderr) == (0, b"")
    assert version.stdout.startswith(b"krun_init ")
    assert subprocess.run([program], capture_output=True, timeout=10).returncode == 125


def test_without_anything_the_packages_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = build_with(empty, tmp_path / "cache")
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    for package in ("musl-tools", "gcc", "make", "dpkg-dev", f"libpython{recipe.PYTHON}-dev"):
        assert package in line
    assert not list((tmp_path / "cache").rglob("init"))


def test_the_packages_that_are_missing_are_listed(tools: Path) -> None:
    environment = {"PATH": str(tools), "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "pykrun.blob", "--packages"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert {"musl-tools", "make", "dpkg-dev"} <= set(done.stdout.split())
    assert "gcc" not in done.stdout.split()
