"""The allocator of the snapshot, in a C program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pykrun.blob import lookup
from pykrun.blob.toolchain import Musl


@pytest.fixture(scope="module")
def stress(tmp_path_factory: pytest.TempPathFactory, musl: Musl) -> Path:
    program = tmp_path_factory.mktemp("heap") / "stress"
    sources = [Path(__file__).with_name("heap_stress.c"), lookup.FOLDER / "heap.c"]
    flags = ["-static", "-no-pie", "-fno-pie", "-O2", "-Wall", "-Wextra", "-Werror", "-fno-builtin-malloc"]
    command = ["musl-gcc", *flags, f"-I{lookup.FOLDER}", "-o", program, *sources]
    subprocess.run(command, check=True, timeout=60)
    return program


@pytest.mark.parametrize("seed", range(4))
def test_blocks_keep_their_content(stress: Path, seed: int) -> None:
    done = subprocess.run([stress, str(seed)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("200000\n", 0)


def test_what_is_wanted_lies_at_the_front(stress: Path) -> None:
    done = subprocess.run([stress, "front", "5"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("200000\n", 0)


def test_what_was_outgrown_before_the_snapshot_is_cut_up(stress: Path) -> None:
    done = subprocess.run([stress, "scrap", "0"], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)
