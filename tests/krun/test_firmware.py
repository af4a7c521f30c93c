"""A firmware of the caller's boots what it finds on a disk: here 512 bytes of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.krun.programs import NO_NETWORK, Programs, Result
from tests.support.command import Pykrun

SEABIOS = ("/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin", "/usr/share/qemu-kvm/bios-256k.bin")
SAID = b"hello from sector 0\r\n"
TEXT = 0x7C40
SAY = bytes.fromhex(
    "31c0 8ed8 fc"  # ds = 0, upwards
    "be407c baf803"  # from TEXT to the first serial line
    "ac 84c0 7403 ee ebf8"  # byte by byte, up to a zero
)
WAIT = bytes.fromhex(
    "ba0206 b80001 ef"  # PWRBTN_EN into q35's PM1_EN
    "ba0006 ed f6c401 74fa"  # until PWRBTN_STS is in PM1_STS
)
POWER_OFF = bytes.fromhex("ba0406 b80020 ef f4 ebfd")  # SLP_EN into PM1a_CNT


@pytest.fixture(scope="module")
def firmware() -> Path:
    for name in SEABIOS:
        if Path(name).exists():
            return Path(name)
    pytest.skip("no SeaBIOS (apt-get install seabios)")


def disk(path: Path, code: bytes) -> Path:
    sector = (code.ljust(TEXT - 0x7C00, b"\0") + SAID + b"\0").ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(sector.ljust(1 << 20, b"\0"))
    return path


@pytest.fixture
def sector(tmp_path: Path) -> Path:
    """A disk that says something and turns the machine off."""
    return disk(tmp_path / "disk", SAY + POWER_OFF)


def boot(engine: str, shell_root: Path, pykrun: Pykrun, lines: str, *arguments: object) -> Result:
    text = f"{NO_NETWORK}good(krun_set_firmware(ctx, arguments[0]))\n{lines}"
    return Programs(engine, shell_root, pykrun).run(text, *arguments)


@pytest.mark.qemu
def test_a_firmware(shell_root: Path, run_pykrun: Pykrun, firmware: Path, sector: Path, tmp_path: Path) -> None:
    """Its console is the console's output, and the machine's end is a good one."""
    lines = """
good(krun_add_disk(ctx, "boot", arguments[1], True))
good(krun_set_console_output(ctx, arguments[2]))
"""
    result = boot("qemu", shell_root, run_pykrun, lines, firmware, sector, tmp_path / "console")
    assert result.code == 0, result
    assert SAID in (tmp_path / "console").read_bytes()


@pytest.mark.qemu
def test_the_first_serial_line(shell_root: Path, run_pykrun: Pykrun, firmware: Path, sector: Path) -> None:
    lines = """
good(krun_add_disk(ctx, "boot", arguments[1], True))
good(krun_add_serial_console_default(ctx, -1, 1))
"""
    result = boot("auto", shell_root, run_pykrun, lines, firmware, sector)
    assert result.code == 0, result
    assert SAID in result.out


@pytest.mark.qemu
@pytest.mark.parametrize("how", ["os.write(button, (1).to_bytes(8, 'little'))", "os.kill(os.getpid(), 15)"])
def test_an_orderly_end_is_the_power_button(
    shell_root: Path, run_pykrun: Pykrun, firmware: Path, tmp_path: Path, how: str
) -> None:
    lines = f"""
import time
good(krun_add_disk(ctx, "boot", arguments[1], True))
good(krun_set_console_output(ctx, arguments[2]))
button = good(krun_get_shutdown_eventfd(ctx))
def press():
    while b"sector 0" not in open(arguments[2], "rb").read():
        time.sleep(0.02)
    {how}
threading.Thread(target=press, daemon=True).start()
"""
    console = tmp_path / "console"
    console.touch()
    image = disk(tmp_path / "disk", SAY + WAIT + POWER_OFF)
    result = boot("qemu", shell_root, run_pykrun, lines, firmware, image, console)
    assert result.code == 0, result


@pytest.mark.qemu
def test_no_firmware_at_all(shell_root: Path, run_pykrun: Pykrun) -> None:
    """QEMU's to find out, ours to say."""
    result = boot("qemu", shell_root, run_pykrun, "", "/dev/null")
    assert result.code == 125
    assert b"could not load PC BIOS" in result.err


@pytest.mark.uml
def test_what_cannot_be(shell_root: Path, run_pykrun: Pykrun, tmp_path: Path) -> None:
    (tmp_path / "firmware").write_bytes(bytes(1 << 16))
    result = boot("uml", shell_root, run_pykrun, "", tmp_path / "firmware")
    assert b"the start returned -22" in result.err
    assert b"User Mode Linux boots no firmware" in result.err
    kernel = "good(krun_set_kernel(ctx, arguments[0], 0, None, None))"
    result = boot("uml", shell_root, run_pykrun, kernel, tmp_path / "firmware")
    assert b"there cannot be another one" in result.err
