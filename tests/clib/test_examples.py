"""examples/krun: built by their Makefile, as their reader would do it, and run."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.images import content_of, make
from tests.clib.library import ROOT, TIMEOUT, folder
from tests.clib.test_vm import vm
from tests.support.command import Pykrun


@pytest.fixture(scope="module")
def examples() -> Iterator[Path]:
    """The folder with the programs."""
    with tempfile.TemporaryDirectory(prefix="pke") as output:
        command = ["make", "-s", "-C", str(ROOT / "examples/krun"), f"OUTPUT={output}", f"PYKRUN_LIB={folder()}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        assert (done.returncode, done.stderr) == (0, "")
        yield Path(output)


def test_chroot_vm(engine: str, run_pykrun: Pykrun, shell_root: Path, examples: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("from a volume\n")
    words = ["-v", f"{tmp_path}:data", "-m", "192", "-w", "/mnt", "-f", "77", str(shell_root), "/bin/sh", "-c"]
    script = 'mount -t virtiofs data /mnt && cd /mnt && cat shared; pwd; ulimit -n; echo "$QUOTED"; cat; exit 9'
    env = {"QUOTED": "\"a\" 'b' ä"}
    done = vm(run_pykrun, engine, *words, script, program=examples / "chroot_vm", env=env, stdin=b"from stdin\n")
    assert done.stdout.decode().splitlines() == ["from a volume", "/mnt", "77", env["QUOTED"], "from stdin"]
    assert done.returncode == 9
    done = vm(run_pykrun, engine, str(shell_root / "none"), "/bin/sh", program=examples / "chroot_vm")
    assert done.returncode == 125
    assert b"chroot_vm: " in done.stderr


def test_two_consoles(engine: str, run_pykrun: Pykrun, shell_root: Path, examples: Path) -> None:
    script = """
    for port in /sys/class/virtio-ports/*; do
        case $(cat $port/name) in
            questions) questions=/dev/${port##*/} ;;
            answers) answers=/dev/${port##*/} ;;
        esac
    done
    echo "on the console"
    read line < $questions
    echo "the answer to $line" > $answers
    exit 8
    """
    words = [str(shell_root), "/bin/sh", "-c", script]
    done = vm(run_pykrun, engine, *words, program=examples / "two_consoles", stdin=b"a question\n")
    log = run_pykrun.folder / "console.log"
    text = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    assert (done.returncode, done.stdout, done.stderr) == (8, b"the answer to a question\n", b"")
    assert "on the console" in text


def test_disk_vm(engine: str, run_pykrun: Pykrun, shell_root: Path, examples: Path, tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.img", "ext4", shell_root)
    script = "cat /marker; mount -t virtiofs greeting /mnt && cat /mnt/text; echo written > /file; exit 11"
    done = vm(run_pykrun, engine, str(disk), "/bin/sh", "-c", script, program=examples / "disk_vm")
    assert (done.returncode, done.stdout) == (11, b"from the root\nhello from the host's memory\n"), done.stderr
    assert content_of(disk, "/file") == b"written\n"


def test_disk_vm_read_only(
    engine_once: str, run_pykrun: Pykrun, shell_root: Path, examples: Path, tmp_path: Path
) -> None:
    disk = make(tmp_path / "disk.img", "ext4", shell_root)
    before = disk.read_bytes()
    options = ["-r", "-t", "ext4", "-d", "/dev/vda"]
    words = [*options, str(disk), "/bin/sh", "-c", "touch /file || exit 12"]
    done = vm(run_pykrun, engine_once, *words, program=examples / "disk_vm")
    assert done.returncode == 12, done.stderr
    assert disk.read_bytes() == before
