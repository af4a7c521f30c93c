"""The kernel command line on plain strings."""

from __future__ import annotations

from pathlib import Path

import pytest

import pykrun.engine as engines
from pykrun.engine.words import LIMIT, check_line, check_word, common_words, panic_exit_code
from pykrun.errors import UsageError
from pykrun.machine import Kernel, Machine

LOG = "printk.devkmsg=on"
KERNEL = Kernel(image=Path("/k"), modules=None, release="6")


@pytest.mark.parametrize("word", ["quiet", "a=b", "virtio_uml.device=/x:26", "a=b,c;d|e", "x" * 100])
def test_good_words_pass(word: str) -> None:
    assert check_word(word) == word


@pytest.mark.parametrize("word", ["", "--", "a b", "a\tb", "a\nb", 'a="b"', "a='b'", "\x00", "\x7f", "ä", "a\udc80"])
def test_bad_words_are_refused(word: str) -> None:
    with pytest.raises(UsageError):
        check_word(word)


def test_line_must_fit_with_its_final_nul() -> None:
    assert len(check_line(["x" * (LIMIT - 1)])) == LIMIT - 1
    with pytest.raises(UsageError, match="2048 bytes"):
        check_line(["x" * (LIMIT - 3), "yy"])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"Kernel panic - not syncing: Attempted to kill init! exitcode=0x00002a00\n", 42),
        (b"exitcode=0x00000000", 0),
        (b"exitcode=0x0000ff00", 255),
        (b"exitcode=0x00000009", 137),
        (b"exitcode=0x0000008b", 139),
        (b"exitcode=0x00000100 and later exitcode=0x00000200", 2),
        (b"Kernel panic - not syncing: VFS: Unable to mount root fs", None),
        (b"exitcode=0xzz", None),
        (b"exitcode=0x", None),
        (b"", None),
    ],
)
def test_exit_code_of_a_panic(text: bytes, code: int | None) -> None:
    assert panic_exit_code(text) == code


def test_a_panic_is_known_by_its_first_words() -> None:
    assert engines.PANIC in b"[    0.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00002a00\n"


def test_root_without_initramfs_is_virtiofs() -> None:
    words = common_words(Machine(kernel=KERNEL, initramfs=None, init="/init.krun"))
    assert words == [LOG, "rootfstype=virtiofs", "root=/dev/root", "rw", "init=/init.krun"]


@pytest.mark.parametrize("given", ["init=/own", "rdinit=/own"])
def test_callers_init_wins(given: str) -> None:
    machine = Machine(kernel=KERNEL, initramfs=None, init="/init.krun", kernel_args=(given,))
    assert not [word for word in common_words(machine) if word.startswith("init=")]


def test_stage_one_is_told_to_execute() -> None:
    assert common_words(Machine(kernel=KERNEL, initramfs=Path("/i"), execute_init=True)) == [LOG, "KRUN_STAGE1=exec"]
    assert common_words(Machine(kernel=KERNEL, initramfs=Path("/i"))) == [LOG]


def test_init_cannot_inject_a_parameter() -> None:
    with pytest.raises(UsageError):
        common_words(Machine(kernel=KERNEL, initramfs=None, init="/x quiet"))
