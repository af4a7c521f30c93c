"""Blobs for other targets than this machine: what is in them, and under emulation that they run."""

from __future__ import annotations

import ast
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun import blob
from pykrun.blob import archive, image, lookup
from pykrun.blob.targets import PAGE, TARGETS
from pykrun.blob.zig import Zig
from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory
from tests.blob.conftest import write_package
from tests.support.cross import OTHER, compiler_for

SOURCE = lookup.FOLDER.parent.parent
FREEBSD = [name for name, target in TARGETS.items() if target.system == "freebsd"]
MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine: EM_X86_64, EM_AARCH64
PT_LOAD, PT_INTERP, PT_TLS = 1, 3, 7

Maker = Callable[[str], Path]


class Elf:
    """The head of an ELF64 program."""

    def __init__(self, content: bytes) -> None:
        assert content[:6] == b"\x7fELF\x02\x01"
        self.osabi = content[7]
        self.machine = struct.unpack_from("<H", content, 18)[0]
        at, count = struct.unpack_from("<Q", content, 32)[0], struct.unpack_from("<H", content, 56)[0]
        self.headers = [struct.unpack_from("<IIQQQQQQ", content, at + 56 * number) for number in range(count)]
        self.kinds = {header[0] for header in self.headers}


def test_the_run_path_knows_the_names_of_all_targets() -> None:
    assert tuple(TARGETS) == lookup.ARCHITECTURES


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in (OTHER, *FREEBSD):
        with pytest.raises(MissingError, match=f"blob for {name}") as caught:
            blob.find(name)
        assert caught.value.hint.endswith(" cross")
    assert not list(tmp_path.iterdir())


def test_without_an_emulator_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=f"programs of {OTHER}") as caught:
        blob.build(OTHER)
    assert "qemu-user" in caught.value.hint


# ---- the other machine's Linux


@pytest.fixture(scope="session")
def zig() -> Zig:
    return compiler_for(OTHER)


@pytest.fixture(scope="session")
def foreign_blob(zig: Zig) -> blob.Blob:
    """What a guest of the other kind gets."""
    return blob.build(OTHER)


@pytest.fixture(scope="session")
def make_foreign(zig: Zig, made_folder: Path) -> Maker:
    """`make_foreign("source of main")` builds a snapshot, with all that the real one's start brings."""

    def make_one(main: str) -> Path:
        folder = made_folder / f"foreign-{len(list(made_folder.iterdir()))}"
        package = write_package(folder, {"main": main})
        stage = folder / "stage"
        stage.mkdir()
        core = archive.provide(zig, folder / "log", lambda line: None)
        return image.make_snapshot(package, core, zig, stage, folder / "log", start=("init", "--version"))

    return make_one


def run(
    zig: Zig, program: Path, *words: bytes | str, env: dict[bytes, bytes] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*zig.emulator, program, *words], env=env or {}, capture_output=True, timeout=120)


@pytest.mark.full
def test_it_needs_nothing_and_is_small(foreign_blob: blob.Blob) -> None:
    content = foreign_blob.read()
    assert (foreign_blob.arch, foreign_blob.recipe) == (OTHER, "snapshot")
    assert len(content) == foreign_blob.size <= 4_000_000
    elf = Elf(content)
    assert elf.machine == MACHINES[OTHER]
    assert not elf.kinds & {PT_INTERP, PT_TLS}


@pytest.mark.full
def test_segments_suit_every_size_of_pages(foreign_blob: blob.Blob) -> None:
    """Offset and address agree modulo the largest page, and the second segment begins on the page that follows."""
    page = PAGE[OTHER]
    text, data = (header for header in Elf(foreign_blob.read()).headers if header[0] == PT_LOAD)
    for _kind, _flags, offset, address, _physical, _in_file, _in_memory, align in (text, data):
        assert align == page
        assert (address - offset) % page == 0
    assert -(-(text[3] + text[6]) // page) == data[3] // page


@pytest.mark.full
def test_it_tells_its_version_and_refuses_the_rest(zig: Zig, foreign_blob: blob.Blob) -> None:
    done = run(zig, foreign_blob.path, "--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"krun_init ")
    done = run(zig, foreign_blob.path, "/bin/sh")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"PID 1" in done.stderr


@pytest.mark.full
def test_no_path_of_this_machine_is_in_it(foreign_blob: blob.Blob) -> None:
    content = foreign_blob.read()
    for path in (SOURCE, cache_directory(), Path.home()):
        if path != Path("/"):
            assert os.fsencode(path) + b"/" not in content


@pytest.mark.full
def test_it_resumes_with_what_the_run_brings(zig: Zig, make_foreign: Maker) -> None:
    """Arguments and environment, the clock, a child, much memory: in one program, since each build takes seconds."""
    program = make_foreign(
        """
        import posix, sys, time

        def main():
            if sys.argv[1:] == ["--version"]:
                return 0
            read, write = posix.pipe()
            child = posix.fork()
            if child == 0:
                posix.write(write, str(posix.getpid()).encode())
                posix._exit(7)
            told = int(posix.read(read, 100))
            status = posix.waitstatus_to_exitcode(posix.waitpid(child, 0)[1])
            kept = [bytes(100) + str(number).encode() for number in range(300_000)]
            found = sys.argv, posix.environ, time.time(), told == child, status, kept[-1][100:]
            out = repr(found).encode("utf-8", "backslashreplace")
            while out:
                out = out[posix.write(1, out):]
        """
    )
    words = [b"", b"--", b"a\nb", b"\xff\xfe", "é☃".encode(), bytes(range(1, 256))]
    env = {b"A": b"1", b"EMPTY": b"", b"BYTES": b"\xff=\n"}
    before = time.time()
    done = run(zig, program, *words, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    argv, environ, now, is_child, status, last = ast.literal_eval(done.stdout.decode())
    assert [os.fsencode(word) for word in argv[1:]] == words
    assert environ == env
    assert before <= now <= time.time()
    assert (is_child, status, last) == (True, 7, b"299999")


@pytest.mark.full
def test_an_exception_is_told_and_gives_125(zig: Zig, make_foreign: Maker) -> None:
    program = make_foreign(
        "import sys\ndef main():\n    if len(sys.argv) == 2:\n        return 0\n    raise KeyError('x')\n"
    )
    done = run(zig, program)
    assert done.returncode == 125
    assert done.stderr.endswith(b"KeyError: 'x'\n")


@pytest.mark.full
def test_from_nothing_twice(tmp_path: Path, zig: Zig) -> None:
    """CPython and the C library compiled, everything, in two caches, but for what is an input: the compiler and this
    machine's own archive, whose Python runs the build. From a copy: a checkout may be worked on."""
    blob.build()
    source = tmp_path / "src"
    for package in ("pykrun", "krun_init"):
        shutil.copytree(SOURCE / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    blobs = []
    for folder in ("one", "two and longer"):
        cache = tmp_path / folder / "pykrun"
        (cache / "zig").mkdir(parents=True)
        (cache / "cpython").mkdir()
        for kept in (*cache_directory().glob("zig/[0-9]*"), *cache_directory().glob("cpython/[0-9a-f]*")):
            (cache / kept.parent.name / kept.name).symlink_to(kept)
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent), "PYTHONPATH": str(source)}
        command = [sys.executable, "-m", "pykrun.blob", "--arch", OTHER]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stderr
        blobs.append(Path(done.stdout.strip()).read_bytes())
    assert blobs[0] == blobs[1]


# ---- FreeBSD: linked, never run


@pytest.fixture(scope="session", params=FREEBSD)
def freebsd_blob(request: pytest.FixtureRequest) -> blob.Blob:
    compiler_for(request.param)
    return blob.build(request.param)


@pytest.mark.full
def test_freebsd_knows_it_as_its_own(freebsd_blob: blob.Blob) -> None:
    elf = Elf(freebsd_blob.read())
    assert (freebsd_blob.recipe, freebsd_blob.switches) == ("frozen", ())
    assert elf.osabi == image.OSABI_FREEBSD
    assert elf.machine == MACHINES[TARGETS[freebsd_blob.arch].machine]
    told = subprocess.run(
        ["readelf", "--wide", "--program-headers", "--dynamic", "--notes", freebsd_blob.path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    needed = set(re.findall(r"\(NEEDED\) .*\[(.*)\]", told))
    assert "libc.so.7" in needed
    assert needed <= {"libc.so.7", "libm.so.5", "libthr.so.3", "libutil.so.9", "libdl.so.1"}
    assert "/libexec/ld-elf.so.1" in told
    assert re.search(r"FreeBSD .*NT_VERSION", told)


@pytest.mark.full
def test_the_folder_has_no_part_in_freebsds_bytes(freebsd_blob: blob.Blob, tmp_path: Path) -> None:
    """The last stage, twice; what comes before it is made as for the other machine's Linux."""
    zig = compiler_for(freebsd_blob.arch)
    core = archive.provide(zig, tmp_path / "log", lambda line: None)
    made = []
    for folder in (tmp_path / "one", tmp_path / "a longer name" / "and depth"):
        package = folder / "krun_init"
        shutil.copytree(lookup.GUEST_FOLDER, package, ignore=shutil.ignore_patterns("__pycache__"))
        stage = folder / "stage"
        stage.mkdir()
        made.append(image.make_frozen(package, core, zig, stage, tmp_path / "log").read_bytes())
    assert made[0] == made[1]
    assert os.fsencode(tmp_path) not in made[0]


@pytest.mark.full
def test_freebsd_gets_its_own_modules_and_no_others(freebsd_blob: blob.Blob) -> None:
    content = freebsd_blob.read()
    at = content.index(b"KRUNFRZ1")
    count = int.from_bytes(content[at + 8 : at + 12], "little")
    at += 12
    names = []
    for _ in range(count):
        name_size, _is_package, code_size = struct.unpack_from("<III", content, at)
        names.append(content[at + 12 : at + 12 + name_size - 1].decode("ascii"))
        at += 12 + name_size + code_size
    assert names == sorted(names)
    assert {"krun_init", "krun_init.freebsd", "krun_init.workload"} <= set(names)
    assert not {"krun_init.main", "krun_init.mounts", "krun_init.stage_one"} & set(names)
    for word in (b"_freebsd\0", b"krun_init.freebsd\0", b"nmount"):
        assert word in content
    assert b"PyInit__linux" not in content
    assert b"krun_init._linux\0" not in content
