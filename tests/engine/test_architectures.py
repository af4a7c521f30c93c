"""Guests of another kind than the host: which engine they get, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import pykrun.engine as engines
from pykrun.engine import qemu
from pykrun.errors import MissingError, UsageError
from pykrun.host.numbers import MACHINE
from pykrun.kernel import for_image

OTHER = "aarch64" if MACHINE == "x86_64" else "x86_64"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but QEMU for the other kind of guests; a cache of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / f"qemu-system-{OTHER}"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return program


@pytest.fixture
def foreign_kernel(tmp_path: Path) -> Path:
    """A file that is a kernel for the other kind of guests, as far as its head goes."""
    image = tmp_path / "kernel"
    banner = b"Linux version 6.7.8-own (who@where) #1\0"
    if OTHER == "aarch64":
        image.write_bytes(bytes(0x38) + b"ARM\x64" + bytes(4) + banner)
    else:
        image.write_bytes(b"\x7fELF\x02\x01" + bytes(12) + (62).to_bytes(2, "little") + bytes(44) + banner)
    return image


def test_a_foreign_guest_is_emulated(programs: Path, foreign_kernel: Path) -> None:
    for engine in (
        engines.choose(arch=OTHER),
        engines.choose(kernel=foreign_kernel),
        engines.choose("qemu", "tcg", arch=OTHER),
    ):
        assert (engine.name, engine.accel, engine.program, engine.arch) == ("qemu", "tcg", programs, OTHER)
    assert engines.choose(kernel=foreign_kernel).kernel(foreign_kernel).arch == OTHER


@pytest.mark.parametrize(("name", "accel"), [("uml", "auto"), ("auto", "kvm"), ("qemu", "kvm")])
def test_what_runs_only_the_hosts_kind_is_refused(programs: Path, foreign_kernel: Path, name: str, accel: str) -> None:
    for wish in ({"arch": OTHER}, {"kernel": foreign_kernel}):
        with pytest.raises(UsageError, match=f"only guests of {MACHINE}"):
            engines.choose(name, accel, **wish)


def test_architecture_and_kernel_must_agree(programs: Path, foreign_kernel: Path) -> None:
    with pytest.raises(UsageError, match=f"a kernel of {OTHER}, not of {MACHINE}"):
        engines.choose(kernel=foreign_kernel, arch=MACHINE)
    assert engines.choose(kernel=foreign_kernel, arch=OTHER).arch == OTHER
    with pytest.raises(UsageError, match="no guests of vax") as caught:
        engines.choose(arch="vax")
    assert "aarch64" in caught.value.hint


def test_what_is_missing_is_named(programs: Path) -> None:
    engine = engines.choose(arch=OTHER)
    with pytest.raises(MissingError, match=f"no kernel of {OTHER}"):
        engine.kernel()
    programs.unlink()
    with pytest.raises(MissingError, match=f"{programs.name} is not installed") as caught:
        engines.choose(arch=OTHER)
    assert "qemu-system-" in caught.value.hint


def test_the_hosts_kind_is_the_default(programs: Path) -> None:
    assert qemu.find() is None
    assert qemu.find(OTHER) == programs
    with pytest.raises(MissingError):
        engines.choose()


@pytest.mark.uml
def test_user_mode_linux_is_of_the_hosts_kind() -> None:
    engine = engines.choose("uml")
    assert for_image(engine.program).arch == engine.arch == MACHINE
