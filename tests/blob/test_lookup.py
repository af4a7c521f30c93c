"""Where the blob is found, and that what is found belongs to the sources as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun import blob
from pykrun.blob import lookup
from pykrun.blob.toolchain import Musl
from pykrun.errors import BlobError, MissingError, UsageError
from pykrun.host.cache import cache_directory
from pykrun.host.checkout import command_for

SOURCE = lookup.FOLDER.parent.parent


def test_the_environment_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "init"
    file.write_bytes(b"anything")
    monkeypatch.setenv(blob.OVERRIDE, str(file))
    for found in (blob.find(), blob.build()):
        assert (found.path, found.size, found.recipe) == (file, 8, "given")
        assert found.read() == b"anything"
        assert found.digest == "ee0874170b7f6f32b8c2ac9573c428d35b575270a66b757c2c0185d2bd09718d"


@pytest.mark.parametrize("kind", ["absent", "folder", "empty"])
def test_the_environment_names_something_unusable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    file = tmp_path / kind
    if kind == "folder":
        file.mkdir()
    if kind == "empty":
        file.touch()
    monkeypatch.setenv(blob.OVERRIDE, str(file))
    with pytest.raises(BlobError, match=f"{blob.OVERRIDE} names .*{kind}"):
        blob.find()


@pytest.mark.root
def test_a_setuid_process_does_not_look_at_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "init"
    file.write_bytes(b"anything")
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); os.setresuid(65534, 0, 0);"
        "from pykrun.blob import lookup; print(lookup.given('x86_64'))"
    )
    environment = {**os.environ, blob.OVERRIDE: str(file)}
    command = [sys.executable, "-c", code, str(SOURCE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_an_unknown_architecture() -> None:
    for ask in (blob.find, blob.build):
        with pytest.raises(UsageError, match="vax"):
            ask("vax")


def test_a_carried_blob_comes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = tmp_path / "data" / "x86_64"
    carried.mkdir(parents=True)
    (carried / "init").write_bytes(b"carried")
    about = {"arch": "x86_64", "recipe": "snapshot", "builder": "b", "switches": ["timesync"], "size": 7}
    (carried / "manifest.json").write_text(json.dumps(about))
    monkeypatch.setattr(lookup, "FOLDER", tmp_path)
    found = blob.find()
    assert (found.read(), found.switches, found.builder) == (b"carried", ("timesync",), "b")


@pytest.fixture
def checkout(tmp_path: Path, musl: Musl, real_blob: blob.Blob) -> Iterator[Checkout]:
    """A copy of the sources with a cache of its own, but for CPython's archive, which is the user's."""
    made = Checkout(tmp_path)
    yield made
    made.close()


class Checkout:
    """Runs find and build in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "src"
        self.cache = folder / "cache" / "pykrun"
        ignore = shutil.ignore_patterns("__pycache__")
        for package in ("pykrun", "krun_init"):
            shutil.copytree(SOURCE / package, self.source / package, ignore=ignore)
        self.guest = self.source / "krun_init"
        self.cache.mkdir(parents=True)
        (self.cache / "cpython").symlink_to(cache_directory() / "cpython")
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache.parent), "PYTHONPATH": str(self.source)}
        process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def build(self, *words: str) -> Path:
        process = self.start("-m", "pykrun.blob", *words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return Path(out.strip())

    def find(self) -> Path | None:
        """What find returns, None for MissingError."""
        code = (
            "from pykrun import blob\nfrom pykrun.errors import MissingError\n"
            "try: print(blob.find().path)\nexcept MissingError: print()"
        )
        process = self.start("-c", code)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return Path(out.strip()) if out.strip() else None

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate(timeout=10)


def age(folder: Path) -> None:
    """Let everything look as if it had been changed a while ago; ctime cannot be set, so wait for that."""
    time.sleep(lookup.SETTLED_NS / 1e9 + 0.1)


def test_found_after_it_was_built(checkout: Checkout) -> None:
    assert checkout.find() is None
    built = checkout.build()
    assert checkout.find() == built == checkout.build()
    assert built.parent.parent == checkout.cache / "blob"


def test_a_change_that_stat_hardly_shows_is_seen(checkout: Checkout) -> None:
    age(checkout.guest)
    built = checkout.build()
    assert checkout.find() == built
    assert list((checkout.cache / "blob").glob("stamp-*"))
    file = checkout.guest / "version.py"
    before, content = file.stat(), file.read_text()
    file.write_text(content[:-2] + "#\n" if content[-2] != "#" else content[:-2] + "\n\n")
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checkout.find() is None
    file.write_text(content)
    assert checkout.find() == built


def test_a_module_more_is_a_blob_more(checkout: Checkout) -> None:
    built = checkout.build()
    (checkout.guest / "one_more.py").write_text("import posix\n")
    assert checkout.find() is None
    with open(checkout.guest / "version.py", "a") as file:
        file.write("import krun_init.one_more\n")
    again = checkout.build()
    assert again != built
    assert again.read_bytes() != built.read_bytes()


def test_each_choice_of_switches_and_date_is_a_blob_of_its_own(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    plain = checkout.build("--without", "timesync")
    assert checkout.find() is None  # it is not what was asked for
    default = checkout.build()
    assert checkout.find() == default
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert checkout.find() == default  # as good to run
    dated = checkout.build()
    assert checkout.find() == dated
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert checkout.find() == default
    assert len({path.read_bytes() for path in (plain, default, dated)}) == 3
    lists = [json.loads((path.parent / "manifest.json").read_bytes())["switches"] for path in (plain, default, dated)]
    assert lists == [[], ["timesync"], ["timesync"]]


def test_a_change_in_a_package_inside_is_another_blob(checkout: Checkout) -> None:
    inner = checkout.guest / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("")
    (inner / "part.py").write_text("import posix\n")
    with open(checkout.guest / "version.py", "a") as file:
        file.write("import krun_init.inner.part\n")
    built = checkout.build()
    (inner / "part.py").write_text("import errno\n")
    assert checkout.find() is None
    again = checkout.build()
    assert again.read_bytes() != built.read_bytes()


def test_a_damaged_entry_does_not_count(checkout: Checkout) -> None:
    built = checkout.build()
    content = built.read_bytes()
    built.write_bytes(content[:1000])
    assert checkout.find() is None
    assert checkout.build().read_bytes() == content


def test_two_builds_at_once_do_not_clash(checkout: Checkout) -> None:
    processes = [checkout.start("-m", "pykrun.blob") for _ in range(3)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert sum("saving it" in err for _, err in outputs) == 1


def test_a_killed_build_leaves_nothing_half_made(checkout: Checkout) -> None:
    folder = checkout.cache / "blob"
    process = checkout.start("-m", "pykrun.blob")
    deadline = time.monotonic() + 60
    while not list(folder.glob("building-*/stage/*.o")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    assert list(folder.glob("building-*"))
    assert checkout.find() is None
    built = checkout.build()
    assert checkout.find() == built
    assert not list(folder.glob("building-*"))


def test_missing_error_names_the_command(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "GUEST_FOLDER", checkout.source / "nowhere")
    with pytest.raises(MissingError, match=re.escape(command_for("pykrun.blob"))):
        blob.find()


def test_looking_up_is_quick_and_imports_no_builder(checkout: Checkout) -> None:
    age(checkout.guest)
    checkout.build()
    checkout.find()  # writes the stamp
    code = (
        "import sys, time\nfrom pykrun import blob\n"
        "times = []\n"
        "for _ in range(5):\n"
        "    before = time.perf_counter(); blob.find(); times.append(time.perf_counter() - before)\n"
        "print(min(times), *{'subprocess', 'argparse', 'hashlib', 'tempfile'} & set(sys.modules))"
    )
    out, err = checkout.start("-c", code).communicate(timeout=60)
    seconds, *heavy = out.split()
    assert heavy == [], err
    assert float(seconds) < 0.02
