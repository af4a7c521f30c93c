"""The examples do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.boot.images import make
from tests.krun.programs import Programs, Result, finish
from tests.support.command import ROOT


def run(programs: Programs, name: str, *arguments: object) -> Result:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=programs.folder,
        env=programs.pykrun.environment({"PYTHONPATH": str(ROOT / "src"), "PYKRUN_ENGINE": programs.engine}),
        start_new_session=True,
    )
    programs.pykrun.adopt(process)
    return finish(process)


def test_chroot(programs: Programs, shell_root: Path) -> None:
    (programs.folder / "here").write_text("from the directory\n")
    try:
        result = run(
            programs, "krun_chroot.py", shell_root, "sh", "-c", 'cat here /marker; echo "$1"; exit 3', "sh", "a b"
        )
    finally:
        (programs.folder / "here").unlink()
    assert (result.code, result.out) == (3, b"from the directory\nfrom the root\na b\n"), result


def test_memory(programs_once: Programs, shell_root: Path) -> None:
    script = "cat /run/secret; cat /run/secret || exit 4"
    result = run(programs_once, "krun_memory.py", shell_root / "bin/busybox", "sh", "-c", script)
    assert (result.code, result.out) == (4, b"the key to everything\n"), result


def test_disk(programs_once: Programs, shell_root: Path, tmp_path: Path) -> None:
    disk = make(tmp_path / "disk.img", "ext4", shell_root)
    script = "trap 'echo stopped; exit 6' TERM; cat /marker; while :; do sleep 1; done"
    result = run(programs_once, "krun_disk.py", disk, 5, "/bin/sh", "-c", script)
    if result.out:  # on a busy machine the time may be over before the guest is up
        assert result.out.startswith(b"from the root\n"), result
    assert result.code in (6, 143), result


def test_a_failure_is_told(programs_once: Programs) -> None:
    result = run(programs_once, "krun_chroot.py", "/no/such/root", "true")
    assert result.code == 1
    assert b"start: Invalid argument (EINVAL)" in result.err
    assert b"/no/such/root" in result.err
