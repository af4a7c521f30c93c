"""Arguments and environment arrive byte for byte, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.vm import Script, Vm, Word

ODD: list[bytes] = [
    b"",
    b" ",
    b"two words",
    b"--",
    b"-- 1 2",
    b"--engine",
    b"-v",
    b"\"double\" and 'single'",
    b"$HOME `id` \\ \\\\ %s %% *",
    b"line\nbreak\n",
    b"\ttab\r\n",
    b"\x01\x02\x7f\x1b[0m",
    b"\xff\xfe not UTF-8 \x80",
    "héllo ☃ 🎉".encode(),
    b"\xed\xa0\x80 a surrogate in bytes",
    b'{"json": [1, "\\u0041"]}',
    b"init=/evil KRUN_INIT=/evil",
    b"",
]
ALL_BYTES = bytes(range(1, 256))


def test_arguments(vm: Vm) -> None:
    words: list[Word] = [*ODD, ALL_BYTES, b"x" * 100_000, b"--", b"1", b"2"]
    result = vm.tool_run("argv", *words)
    assert (result.code, result.err) == (0, b"")
    assert result.lines() == words


def test_many_arguments(vm_once: Vm) -> None:
    """More than the kernel's command line could hold a hundred times over, and the program's own name."""
    words: list[Word] = [b"%d-%s" % (number, b"y" * 50) for number in range(5000)]
    result = vm_once.run("/tool", "argv", *words)
    assert (result.code, result.err) == (0, b"")
    assert result.lines() == words


def environment(vm: Vm, *options: Word) -> dict[bytes, bytes]:
    result = vm.tool_run("env", options=options)
    assert (result.code, result.err) == (0, b"")
    pairs = [line.partition(b"=") for line in result.lines()]
    found = {key: value for key, _, value in pairs}
    assert len(found) == len(pairs), f"a variable twice: {pairs}"
    return found


def test_default_environment(vm: Vm) -> None:
    """HOME, TERM and PATH, no more: neither the kernel's words nor the host's variables nor our switches."""
    found = environment(vm, "--kernel-arg", "STRAY=1", "--hostname", "box")
    assert found.pop(b"STRAY", b"1") == b"1"  # whoever gives such a word to the kernel asked for a variable
    assert set(found) == {b"HOME", b"TERM", b"PATH"}
    assert found[b"HOME"].startswith(b"/")
    assert found[b"TERM"]
    assert {b"/bin", b"/usr/bin", b"/sbin", b"/usr/sbin"} <= set(found[b"PATH"].split(b":"))


def test_environment(vm: Vm, tmp_path: Path) -> None:
    names = [b"HOME", b"PATH", b"TERM", b"EMPTY", b"with space", b"KRUN_INIT", b"KRUN_WORKDIR", b"\xff\xfe", b"init"]
    values = [b"/home/me", b"/only", b"odd", b"", b" value ", b"/evil", b"/nowhere", b"\x80=\n", b"/evil rdinit=/evil"]
    wanted = dict(zip(names, values, strict=True))
    wanted |= {b"ODD%d" % number: value for number, value in enumerate(ODD)}
    wanted |= {b"N%03d" % number: b"v" * number for number in range(500)}
    wanted[b"BYTES"] = ALL_BYTES
    from_file = {b"FILE": b"from the file", b"QUOTED": b'"kept"', b"N001": b"v"}
    path = tmp_path / "env"
    path.write_bytes(b"# comment\n\n" + b"".join(b"%s=%s\n" % item for item in from_file.items()))
    options: list[Word] = ["--env-file", str(path)]
    for key, value in wanted.items():
        options += ["--env", b"%s=%s" % (key, value)]
    assert environment(vm, *options) == wanted | from_file


def test_nothing_becomes_a_kernel_parameter(vm: Vm, tmp_path: Path) -> None:
    """The kernel's command line is made of fixed words and of --kernel-arg alone."""
    evil, words = "init=/evil KRUN_INIT=/evil quiet", "evil ro single"
    secret = tmp_path / "secret-word"
    secret.write_text("x")
    script = Script()
    line, own = script.read("/proc/cmdline"), script.call("readlink", "/proc/self/cwd")
    name, file = script.read("/proc/sys/kernel/hostname"), script.read(f"/{words}/file")
    options = ["--workdir", f"/dir {evil}", "--dir", f"/dir {evil}", "--text", f"/{words}/file=there"]
    options += ["--env", f"EVIL={evil}", "--hostname", "init=evil", "--secret", f"/{words}/secret={secret}"]
    options += ["--kernel-arg", "asked.for=this"]
    vm.script(script, *options)
    assert own.data == f"/dir {evil}".encode()
    assert (name.data, file.data) == (b"init=evil\n", b"there")
    assert b"asked.for=this" in line.data.split()
    assert b"evil" not in line.data
    assert b"single" not in line.data
    assert b"secret" not in line.data


@pytest.mark.parametrize("word", ["two words", "new\nline", "", "tab\there", 'quo"te', "caf\u00e9"])
def test_kernel_arg_is_one_word(vm: Vm, word: str) -> None:
    result = vm.tool_run("exit", "0", options=["--kernel-arg", word])
    assert result.code in (2, 125)
    assert result.err.count(b"\n") == 1
    assert b"--kernel-arg" in result.err
