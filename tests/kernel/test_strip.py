"""Kernel modules without their debug sections: smaller, and still modules."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pykrun.kernel.strip import without_debug


def modules() -> list[Path]:
    names = ("fuse.ko", "virtiofs.ko", "virtio_console.ko", "virtio_net.ko")
    return [path for name in names for path in sorted(Path("/usr/lib/uml/modules").rglob(name))]


def sections(data: bytes, tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Name -> (type, size) of every section with content, as readelf sees them."""
    (tmp_path / "module").write_bytes(data)
    output = subprocess.run(["readelf", "-SW", tmp_path / "module"], capture_output=True, text=True, check=True)
    assert output.stderr == ""
    found = {}
    for line in output.stdout.splitlines():
        words = line.partition("]")[2].split()
        if len(words) >= 6 and words[0].startswith(".") and words[1] != "NULL":
            found[words[0]] = (words[1], words[4])
    return found


@pytest.mark.uml
def test_loaded_sections_stay_and_debug_goes(tmp_path: Path) -> None:
    assert modules()
    for path in modules():
        whole = path.read_bytes()
        small = without_debug(whole)
        before, after = sections(whole, tmp_path), sections(small, tmp_path)
        assert ".debug_info" in before
        assert len(small) < len(whole) * 0.6
        kept = {name: value for name, value in before.items() if "debug" not in name}
        # What else goes is not loaded either.
        assert {name for name in kept if name not in after} <= {".comment", ".note.GNU-stack"}
        assert after == {name: value for name, value in kept.items() if name in after}
        assert without_debug(small) == small


@pytest.mark.uml
def test_signed_broken_and_other_files_are_left_alone() -> None:
    whole = modules()[0].read_bytes()
    signed = whole + b"sig~Module signature appended~\n"
    for data in (signed, b"", b"\x7fELF\x02\x01", whole[:100], b"text"):
        assert without_debug(data) == data
