"""What somebody sees who has never used pykrun, on a real terminal: one line that says what is wrong and what to do."""

from __future__ import annotations

import importlib
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.cli import COMMANDS
from pykrun.cli.dispatch import Parser
from tests.support.command import FIND, LAUNCH, Pykrun

LIMIT = 60.0


def seen(words: list[str], env: dict[str, str], program: list[str]) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit status and what it showed there."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            [*program, *words], env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
            if not data:
                break
            shown += data
        status = process.wait(LIMIT)
    finally:
        os.close(master)
    return status, shown.decode().replace("\r\n", "\n")


CHECKOUT = [sys.executable, "-I", "-S", "-c", f"{FIND}\n{LAUNCH}"]


@pytest.fixture
def env(run_pykrun: Pykrun) -> dict[str, str]:
    return run_pykrun.environment()


def options_of(command: str) -> list[str]:
    module = importlib.import_module(f"pykrun.cli.{command}")
    parser = Parser(prog=f"pykrun {command}", allow_abbrev=False)
    module.add_arguments(parser)
    return [word for word in parser._option_string_actions if word.startswith("--") and len(word) > 5]


TYPOS = """
import sys
from pykrun.cli.dispatch import dispatch
for command in {commands!r}:
    for option in {options!r}[command]:
        middle = len(option) // 2 + 1
        for word in (option[:middle] + option[middle + 1 :], option[:middle] + "x" + option[middle:]):
            print(command, option, dispatch([command, word]), file=sys.stderr)
"""


def test_a_typo_in_any_option_is_answered_with_the_option(env: dict[str, str]) -> None:
    options = {command: options_of(command) for command in COMMANDS}
    script = f"{FIND}\n{TYPOS.format(commands=list(COMMANDS), options=options)}"
    status, shown = seen([], env, [sys.executable, "-I", "-S", "-c", script])
    assert status == 0, shown
    lines = shown.splitlines()
    assert len(lines) == 2 * 2 * sum(map(len, options.values()))
    for complaint, about in zip(lines[::2], lines[1::2], strict=True):
        command, option, code = about.split()
        assert complaint.startswith("pykrun: there is no option --"), complaint
        assert code == ("125" if command in ("run", "exec") else "2")
        meant = complaint.rpartition("did you mean ")[2].rstrip("?)")
        assert meant in options[command], complaint
        # Of two that are alike (--file, --dir) the other one may be nearer.
        assert meant == option or abs(len(meant) - len(option)) <= 2, complaint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rum"], "there is no command 'rum' (did you mean run?)"),
        (["run", "--read-olny", "--", "/x"], "there is no option --read-olny (did you mean --read-only?)"),
        (["run", "--kernel", "/nowhere", "--", "/x"], "cannot read the kernel /nowhere: No such file or directory"),
        (["run", "--root", "/nowhere", "--", "/x"], "--root '/nowhere': No such file or directory"),
        (["run", "--memory", "lots", "--", "/x"], "--memory wants a whole number of MiB from 1 to 1048576, not 'lots'"),
        (["run", "--engine", "xen", "--", "/x"], "argument --engine: invalid choice: 'xen'"),
        (["doctor", "uml"], "not understood: uml"),
        (["--debug", "ps"], "--debug comes after the command (as in `pykrun run --debug`"),
        (["run", "--bogus", "--", "/x"], "there is no option --bogus (see `pykrun run --help`)"),
        (["run", "--config", "--", "/x"], "--config wants a value: FILE\n"),
        (["run", "--root", "--", "/x"], "--root wants a value: DIR\n"),
        (["run", "--engine"], "--engine wants a value: auto, uml, qemu\n"),
        (["exec", "--env", "--", "/x"], "--env wants a value: K=V\n"),
        (["fs", "--socket-path"], "--socket-path wants a value: SOCK\n"),
        (["run", "--dir", "/a:9", "--", "/x"], "--dir: '9' is no MODE: three or four octal digits, as in 0755 (for"),
        (["run", "--file", "/a=/x:0778", "--", "/x"], "--file: '0778' is no MODE"),
        (["run", "--secret", "/a=/x:99", "--", "/x"], "--secret: '99' is no MODE"),
        (["run", "--file", "/a=/nope", "--", "/x"], "cannot read '/nope': No such file or directory\n"),
        (["run", "--text", "a=b", "--", "/x"], "--text: 'a' is not an absolute path in the guest (start it with /)"),
        (["mount", "/mnt", "--null", "--text", "a=b"], "--text: 'a' is not an absolute path in what is shared (start"),
        (["run", "--volume", "/:/a", "--volume", "/usr:/a/", "--", "/x"], "the volume /a is given twice\n"),
        (["run", "--root", "/", "--writable", "/etc/passwd", "--", "/x"], "--writable '/etc/passwd': Not a directory"),
        (["run", "--user", "nobody", "--", "/x"], "--user wants UID or UID:GID as numbers, not 'nobody' (names live"),
        (["run", "--user", "1:2:3", "--", "/x"], "--user wants UID or UID:GID as numbers, not '1:2:3' (from 0 to"),
        (["run", "--user", "99999999999", "--", "/x"], "--user wants UID or UID:GID as numbers, not '99999999999' (fr"),
        (["config", "--", "a\udcff"], "'a\\xff' is not UTF-8, and TOML cannot hold it (leave it to the command"),
    ],
)
def test_one_line(env: dict[str, str], words: list[str], said: str) -> None:
    status, shown = seen(words, env, CHECKOUT)
    assert status == (125 if words[0] in ("run", "exec") else 2)
    assert shown.startswith(f"pykrun: {said}")
    assert shown.count("\n") == 1


def test_a_directory_may_be_called_so_with_its_mode(env: dict[str, str]) -> None:
    status, shown = seen(["config", "--dir", "/a:9:0700"], env, CHECKOUT)
    assert (status, '"/a:9" = "0700"' in shown) == (0, True), shown


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["config", "--config", "{}"], "--config: '{}' is no description of a machine: it has more than 4 MiB"),
        (["run", "--env-file", "{}", "--", "/x"], "--env-file: '{}' is no list of variables: it has more than 16 MiB"),
        (["run", "--file", "/a={}", "--", "/x"], "'{}' has no end (name a file"),
        (["run", "--secret", "/a={}", "--", "/x"], "'{}' has no end (name a file"),
    ],
)
def test_what_has_no_end_is_not_read(env: dict[str, str], tmp_path: Path, words: list[str], said: str) -> None:
    zero = tmp_path / "zero"
    os.mknod(zero, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    limited = ["prlimit", "--as=2000000000", *CHECKOUT]
    status, shown = seen([word.format(zero) for word in words], env, limited)
    assert status == (125 if words[0] == "run" else 2)
    assert shown.startswith(f"pykrun: {said.format(zero)}")
    assert shown.count("\n") == 1


def test_too_little_memory_is_one_line() -> None:
    script = (
        "import sys\nfrom pykrun.cli.failing import Manner, guarded\n"
        "sys.exit(guarded(lambda: len(bytearray(1 << 62)), Manner()))"
    )
    status, shown = seen([], dict(os.environ), [sys.executable, "-I", "-S", "-c", f"{FIND}\n{script}"])
    assert (status, shown) == (2, "pykrun: there is not enough memory for this (--debug tells more)\n")


@pytest.mark.root
@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        ["ps"],
        ["doctor"],
        ["config", "--", "x"],
        ["config", "--help"],
        ["completion", "bash"],
        ["image", "--help"],
        ["init"],
        ["run", "--help"],
    ],
)
def test_a_full_standard_output_is_one_line(env: dict[str, str], tmp_path: Path, words: list[str]) -> None:
    os.mknod(tmp_path / "full", stat.S_IFCHR | 0o600, os.makedev(1, 7))
    with open(tmp_path / "full", "wb") as full:
        done = subprocess.run(
            [*CHECKOUT, *words], env=env, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=LIMIT
        )
    assert done.stderr.startswith(b"pykrun: ")
    assert b"No space left on device" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert done.returncode == (125 if words[0] == "run" else 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--root", ".", "--", "/x"], "--root '.': the working directory is gone (cd to one that is there)"),
        (["run", "--volume", ".:/x", "--", "/x"], "--volume '.': the working directory is gone"),
        (["run", "--image", "./x", "--", "/x"], "--image './x': the working directory is gone"),
        (["config", "--kernel", "x"], "the working directory is gone"),
    ],
)
def test_a_working_directory_that_is_gone(env: dict[str, str], tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "gone").mkdir()
    script = ["sh", "-c", 'cd "$1"; rmdir "$1"; shift; exec "$@"', "sh", str(tmp_path / "gone"), *CHECKOUT]
    status, shown = seen(words, env, script)
    assert status in (1, 125)
    assert shown.startswith(f"pykrun: {said}")
    assert shown.count("\n") == 1


def test_a_kernel_that_is_a_pipe_is_not_waited_for(env: dict[str, str], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    status, shown = seen(["run", "--kernel", str(fifo), "--root", "/", "--read-only", "--", "/x"], env, CHECKOUT)
    assert (status, shown) == (125, f"pykrun: cannot read the kernel {fifo}: not a regular file (copy it to one)\n")


def test_without_an_engine_the_message_says_how_to_get_one(env: dict[str, str]) -> None:
    words = ["run", "--file", "/x=/bin/true", "--", "/x"]
    status, shown = seen(words, {**env, "PATH": "/nowhere"}, CHECKOUT)
    assert status == 125
    assert shown.count("\n") == 1
    assert "doctor" in shown or "install" in shown or "setup" in shown


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with next to no room."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True, timeout=LIMIT)
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=LIMIT)


RUN = ["run", "--engine", "uml", "--root", "/", "--read-only", "--", "/bin/echo", "hello"]


def blob() -> str:
    from pykrun.blob import find

    return str(find().path)


@pytest.mark.root
@pytest.mark.uml
@pytest.mark.parametrize("state", ["read-only", "full", "missing"])
def test_a_home_that_cannot_be_written_is_no_hindrance(env: dict[str, str], small: Path, state: str) -> None:
    """The cache is a convenience; what is needed for a boot goes below the temporary folder then."""
    given = {**env, "HOME": str(small), "XDG_CACHE_HOME": "", "KRUN_INIT_BINARY_PATH": blob()}
    if state == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True, timeout=LIMIT)
    elif state == "full":
        subprocess.run(["dd", "if=/dev/zero", f"of={small}/fill"], stderr=subprocess.DEVNULL, timeout=LIMIT)
    else:
        given["HOME"] = "/proc/nowhere"  # and cannot be made
    spare = Path(env["TMPDIR"])
    for _ in range(2):  # the second time it is there
        assert seen(RUN, given, CHECKOUT) == (0, "hello\n")
    (made,) = spare.iterdir()
    assert made.name == f"pykrun-{os.geteuid()}"
    assert made.stat().st_mode & 0o777 == 0o700
    subprocess.run(["rm", "-r", str(made)], check=True, timeout=LIMIT)


@pytest.mark.root
@pytest.mark.uml
def test_a_temporary_folder_of_somebody_else_is_not_trusted(env: dict[str, str]) -> None:
    trap = Path(env["TMPDIR"]) / f"pykrun-{os.geteuid()}"
    trap.mkdir(mode=0o700)
    os.chown(trap, 65534, 65534)
    given = {**env, "HOME": "/proc/nowhere", "XDG_CACHE_HOME": "", "KRUN_INIT_BINARY_PATH": blob()}
    status, shown = seen(RUN, given, CHECKOUT)
    assert status == 125
    assert "set XDG_CACHE_HOME to a writable folder" in shown
    assert list(trap.iterdir()) == []
    trap.rmdir()
