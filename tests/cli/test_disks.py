"""The options of disks: their order, their images, the root; each complaint is one line that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykrun.cli import values
from pykrun.errors import UsageError
from pykrun.machine import Disk
from pykrun.start_data import StartData
from tests.disk import make
from tests.support.command import Pykrun

DISK, FORMAT = "--disk", "--disk-format"


@pytest.fixture
def images(tmp_path: Path) -> dict[str, str]:
    """Two raw images and two of qcow2."""
    paths = {name: tmp_path / name for name in ("r1", "r2", "q1", "q2")}
    for name, path in paths.items():
        if name.startswith("r"):
            make.sparse(path, 1 << 16)
        else:
            make.tool("qemu-img", "create", "-q", "-f", "qcow2", path, "64k")
    return {name: str(path) for name, path in paths.items()}


class Parse:
    def __init__(self, stack: ExitStack, images: dict[str, str]) -> None:
        self._stack = stack
        self._images = images

    def __call__(self, *words: str) -> list[Disk]:
        """Open the disks of an order like `r1 qcow2: q1`."""
        options = [
            (FORMAT, word[:-1]) if word.endswith(":") else (DISK, word.replace(word[:2], self._images[word[:2]], 1))
            for word in words
        ]
        disks = values.disks(options)
        for disk in disks:
            self._stack.callback(os.close, disk.descriptor)
        return list(disks)


@pytest.fixture
def parse(images: dict[str, str]) -> Iterator[Parse]:
    with ExitStack() as stack:
        yield Parse(stack, images)


@pytest.mark.parametrize(
    ("words", "formats"),
    [
        ("", []),
        ("r1 r2", ["raw", "raw"]),
        ("qcow2: q1 q2", ["qcow2", "qcow2"]),
        ("q1 q2 qcow2:", ["qcow2", "qcow2"]),
        ("r1 qcow2: q1", ["raw", "qcow2"]),
        ("qcow2: q1 raw: r1", ["qcow2", "raw"]),
        ("r1 qcow2: q1 raw: r2", ["raw", "qcow2", "raw"]),
        ("raw: r1 qcow2: q1 q2", ["raw", "qcow2", "qcow2"]),
    ],
)
def test_formats(parse: Parse, words: str, formats: list[str]) -> None:
    assert [disk.format for disk in parse(*words.split())] == formats


def test_order_names_and_modes(parse: Parse, images: dict[str, str]) -> None:
    disks = parse("r2", "r1:ro")
    assert [(disk.path, disk.read_only, disk.serial) for disk in disks] == [
        (images["r2"], False, "pykrun-vda"),
        (images["r1"], True, "pykrun-vdb"),
    ]


def test_an_image_whose_name_ends_in_ro(tmp_path: Path) -> None:
    path = make.sparse(tmp_path / "x:ro", 512)
    (disk,) = values.disks([(DISK, str(path))])
    assert (disk.path, disk.read_only) == (str(path), False)
    os.close(disk.descriptor)
    (disk,) = values.disks([(DISK, f"{path}:ro")])
    assert (disk.path, disk.read_only) == (str(path), True)
    os.close(disk.descriptor)


def test_wrong_ones_leave_nothing_open(images: dict[str, str], tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for options, message in (
        ([(FORMAT, "raw")], "--disk-format without a --disk"),
        ([(DISK, images["r1"]), (DISK, images["r1"])], "is in use"),
        ([(DISK, images["r1"]), (DISK, str(tmp_path / "none"))], "No such file"),
        ([(DISK, "x")] * 17, "17 disks; a machine has at most 16"),
        ([(FORMAT, "qcow2"), (DISK, images["r1"])], "is no qcow2 image"),
    ):
        with pytest.raises(UsageError, match=message):
            values.disks(options)
        assert len(os.listdir("/proc/self/fd")) == before, message


def test_root_disks() -> None:
    assert values.root_disk(None, None, None) is None
    assert values.root_disk("vda", None, None) == "/dev/vda"
    assert values.root_disk("/dev/vdb12", "ext4", "ro") == "/dev/vdb12"
    for bad in ("", "/dev/sda", "vda0", "/tmp/x", "LABEL=x"):
        with pytest.raises(UsageError, match="--root-disk wants"):
            values.root_disk(bad, None, None)
    for words in (("ext4", None), (None, "ro")):
        with pytest.raises(UsageError, match="are for a --root-disk"):
            values.root_disk(None, *words)


def test_names_of_file_systems() -> None:
    assert values.file_system("ext4") == "ext4"
    for bad in ("", "Ext 4", "a/b", "x" * 40):
        with pytest.raises(UsageError, match="--root-fstype"):
            values.file_system(bad)


def test_start_data_names_the_root() -> None:
    assert b'"root":' not in StartData().encode()
    assert b'"root":{"device":"/dev/vda1"}' in StartData(root_device="/dev/vda1").encode()
    everything = StartData(root_device="/dev/vda", root_fstype="xfs", root_options="ro,noatime").encode()
    assert b'"root":{"device":"/dev/vda","fstype":"xfs","options":"ro,noatime"}' in everything


@pytest.mark.uml
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--disk", "{none}"), "cannot open disk '{none}': No such file or directory (`truncate -s 1G FILE`"),
        (("--disk", "/"), "disk '/' is a directory (name an image or a block device)"),
        (("--disk", "{r1}", "--root-disk", "vdb"), "there is no /dev/vdb to boot into (the machine's disks: vda)"),
        (("--disk", "{r1}", "--root-disk", "vda3"), "disk '{r1}' has no partition 3"),
        (("--root-disk", "vda"), "there is no /dev/vda to boot into (give the machine a disk with --disk)"),
        (("--disk", "{r1}", "--root-disk", "vda", "--root-fstype", "nosuch"), "this kernel has no file system nosuch"),
        (("--disk", "{r1}", "--disk-format", "vmdk"), "disk '{r1}' is no vmdk image (--disk-format raw"),
        (("--disk", "{r1}", "--disk-format", "vdi"), "invalid choice: 'vdi'"),
    ],
)
def test_one_clear_line(
    run_pykrun: Pykrun, images: dict[str, str], options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    names = {**images, "none": str(tmp_path / "none")}
    words = [word.format(**names) for word in options]
    result = run_pykrun(["run", "--engine", "uml", *words, "--", "/x"])
    assert (result.returncode, result.stdout) == (125, b"")
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("pykrun: ")
    assert message.format(**names) in line
