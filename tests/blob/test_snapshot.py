"""What a snapshotted program can do when it resumes."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pykrun.errors import BlobError
from tests.blob.conftest import Maker

TIMEOUT = 60


def run(
    program: Path, *arguments: bytes | str, env: Mapping[bytes, bytes] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, *arguments], env=env or {}, capture_output=True, timeout=TIMEOUT)


def said(done: subprocess.CompletedProcess[bytes]) -> Any:
    """What a program that wrote the repr of something meant."""
    assert (done.returncode, done.stderr) == (0, b"")
    return ast.literal_eval(done.stdout.decode())


TELL = """
    import posix
    import sys

    def main():
        out = repr((sys.argv, posix.environ)).encode("utf-8", "backslashreplace")
        while out:
            out = out[posix.write(1, out):]
"""


STARTS = pytest.mark.parametrize("start", [(), ("init", "--version")], ids=["plain", "rehearsed"])


@STARTS
def test_arguments_and_environment_are_those_of_the_run(make: Maker, start: tuple[str, ...]) -> None:
    words = [b"", b" ", b"--", b"a\nb", b"\xff\xfe", "é☃".encode(), b"\xed\xa0\x80", bytes(range(1, 256))]
    env = {b"A": b"1", b"EMPTY": b"", b"BYTES": b"\xff=\n", b"\xfe": b"x"}
    argv, environ = said(run(make(*start, main=TELL), *words, env=env))
    assert [os.fsencode(word) for word in argv[1:]] == words
    assert environ == env


def test_a_package_inside_is_a_part_of_it(make: Maker) -> None:
    inside = {
        "inner/__init__": "NAME = __name__\n",
        "inner/part": "from krun_init.inner import other\ndef double(): return other.KEPT * 2\n",
        "inner/other": "KEPT = 21\n",
    }
    main = """
        import posix
        from krun_init import inner
        from krun_init.inner import part

        def main():
            posix.write(1, repr((inner.NAME, part.__name__, part.double())).encode())
    """
    assert said(run(make(main=main, **inside))) == ("krun_init.inner", "krun_init.inner.part", 42)


@STARTS
def test_nothing_of_the_builders_environment(make: Maker, start: tuple[str, ...]) -> None:
    assert said(run(make(*start, main=TELL)))[1] == {}


@pytest.mark.parametrize("body", ["return 3", "raise KeyError", "posix.kill(posix.getpid(), 9)"])
def test_a_start_that_fails_ends_the_build(make: Maker, body: str) -> None:
    with pytest.raises(BlobError, match="stem failed"):
        make("init", main=f"import posix\ndef main():\n    {body}\n")


def test_of_two_variables_of_one_name_the_first_counts(make: Maker) -> None:
    program = make(main=TELL)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # subprocess takes a dict
        import ctypes

        os.dup2(write, 1)
        strings = ctypes.c_char_p * 4
        execve = ctypes.CDLL(None).execve
        execve(bytes(program), strings(b"init", None), strings(b"K=1", b"no equals sign", b"K=2", None))
        os._exit(99)
    os.close(write)
    with open(read, "rb") as stream:
        assert ast.literal_eval(stream.read().decode())[1] == {b"K": b"1"}
    assert os.waitpid(pid, 0)[1] == 0


def test_a_hundred_thousand_arguments(make: Maker) -> None:
    program = make(
        main="""
        import posix, sys
        def main():
            total = sum(map(len, sys.argv[1:]))
            posix.write(1, f"{len(sys.argv)} {sys.argv[-1]} {total} {len(posix.environ)}".encode())
        """
    )
    words = [str(number) for number in range(100_000)]
    env = {f"V{number}".encode(): b"x" * 20 for number in range(5_000)}
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < 8 << 20:
        pytest.skip("the stack limit allows fewer arguments")
    done = run(program, *words, env=env)
    assert done.stdout.decode() == f"100001 99999 {sum(map(len, words))} 5000"


@pytest.mark.parametrize(
    ("returned", "status"), [("None", 0), ("0", 0), ("42", 42), ("255", 255), ("True", 1), ("256 + 7", 7), ("-1", 255)]
)
def test_what_main_returns_is_the_status(make: Maker, returned: str, status: int) -> None:
    program = make(main="import sys\ndef main():\n    return eval_(sys.argv[1])\n" + EVAL)
    done = run(program, returned)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


EVAL = """
def eval_(word):
    if word == "None": return None
    if word == "True": return True
    if word == "256 + 7": return 263
    return int(word)
"""


def test_an_exception_is_told_and_gives_125(make: Maker) -> None:
    program = make(
        main="""
        from krun_init import other
        def main():
            other.fail()
        """,
        other="""
        def fail():
            raise ValueError("bad \\udcff é")
        """,
    )
    done = run(program)
    assert done.returncode == 125
    assert done.stderr.decode("utf-8", "surrogateescape").splitlines() == [
        "krun_init: uncaught exception, innermost call last:",
        "  krun_init/main.py:4 in main",
        "  krun_init/other.py:3 in fail",
        "ValueError: bad \udcff é",
    ]


@pytest.mark.parametrize("source", ["return 'x'", "raise SystemExit(3)", "return [].x", "return eval('1')"])
def test_whatever_else_goes_wrong_gives_125(make: Maker, source: str) -> None:
    done = run(make(main=f"def main():\n    {source}\n"))
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"krun_init: uncaught exception")


def test_deep_recursion_is_an_exception(make: Maker) -> None:
    done = run(make(main="def f(n):\n    return f(n + 1) + 1\ndef main():\n    f(0)\n"))
    assert done.returncode == 125
    assert b"RecursionError" in done.stderr


def test_memory_beyond_the_reserve(make: Maker) -> None:
    """60 MB in small pieces and 64 in large ones, twice: more than what is set aside, and given back."""
    program = make(
        main="""
        import posix
        def use():
            small = [bytes(100) + str(number).encode() for number in range(400_000)]
            large = [bytearray(b"x") * 8_000_000 for _ in range(8)]
            assert_(all(small[number].endswith(str(number).encode()) for number in range(0, 400_000, 1000)))
            assert_(all(block.count(b"x") == 8_000_000 for block in large))
        def assert_(truth):
            if not truth: raise AssertionError
        def main():
            use()
            first = size()
            for _ in range(3): use()
            assert_(size() < first + 20_000)
            posix.write(1, b"ok")
        def size():
            fd = posix.open("/proc/self/statm", 0)
            pages = int(posix.read(fd, 100).split()[1])
            posix.close(fd)
            return pages * 4
        """
    )
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ok", b"")


def test_no_memory_is_memory_error(make: Maker) -> None:
    program = make(
        main="def main():\n    try:\n        bytearray(1 << 60)\n    except MemoryError:\n        return 7\n"
    )
    assert run(program).returncode == 7


def test_fork_and_exec(make: Maker) -> None:
    program = make(
        main="""
        import posix
        def main():
            r, w = posix.pipe()
            pid = posix.fork()
            if pid == 0:
                posix.dup2(w, 1)
                posix.execve("/bin/sh", ["sh", "-c", 'echo "$FOO" $$; exit 7'], {b"FOO": b"bar"})
            posix.close(w)
            word = posix.read(r, 100)
            _, status = posix.waitpid(pid, 0)
            posix.write(1, repr((word, pid, posix.waitstatus_to_exitcode(status))).encode())
        """
    )
    word, pid, status = said(run(program))
    assert (word, status) == (f"bar {pid}\n".encode(), 7)


def test_time_is_that_of_the_run(make: Maker) -> None:
    program = make(
        main="""
        import posix, time
        def main():
            posix.write(1, repr((time.time(), time.monotonic(), time.gmtime()[:5])).encode())
        """
    )
    before = time.time(), time.monotonic()
    now, ticks, broken_down = said(run(program))
    assert before[0] <= now <= time.time()
    assert before[1] <= ticks <= time.monotonic()
    assert broken_down in [time.gmtime(before[0])[:5], time.gmtime()[:5]]


def test_it_resumes_wherever_the_kernel_puts_stack_and_vdso(make: Maker) -> None:
    program = make(
        main="""
        import posix, time
        def main():
            time.monotonic(); time.sleep(0)
            posix.write(1, str(posix.getpid()).encode())
        """
    )
    pids = {run(program, "x" * number).stdout for number in range(50)}
    assert len(pids) == 50


def test_error_handlers_of_codecs(make: Maker) -> None:
    program = make(
        main="""
        import posix
        def main():
            results = [
                b"a\\xff".decode("utf-8", "backslashreplace"),
                "\\ud800".encode("utf-8", "surrogatepass"),
                "é".encode("ascii", "xmlcharrefreplace"),
                b"\\xe9".decode("latin-1"),
            ]
            try:
                "x".encode("rot13")
            except LookupError:
                results.append("unknown")
            posix.write(1, repr(results).encode())
        """
    )
    assert said(run(program)) == ["a\\xff", b"\xed\xa0\x80", b"&#233;", "é", "unknown"]


def test_cycles_are_collected_and_the_snapshot_is_left_alone(make: Maker) -> None:
    program = make(
        main="""
        import gc, posix
        freed = [0]
        class Node:
            def __del__(self): freed[0] += 1
        def main():
            frozen = gc.get_freeze_count()
            for _ in range(50_000):
                node = Node(); node.itself = node
            posix.write(1, repr((freed[0], frozen, gc.get_freeze_count(), gc.isenabled())).encode())
        """
    )
    freed, frozen_before, frozen_after, enabled = said(run(program))
    assert freed > 30_000
    assert frozen_before == frozen_after > 1_000
    assert enabled is True


def test_signals_are_as_they_were_inherited(make: Maker) -> None:
    program = make(
        main="""
        import posix
        def main():
            fd = posix.open("/proc/self/status", 0)
            text = posix.read(fd, 65536).decode()
            posix.write(1, repr([line for line in text.split("\\n") if line.startswith("Sig")]).encode())
        """
    )
    expected = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    done = subprocess.run([program], capture_output=True, timeout=TIMEOUT)
    lines = ast.literal_eval(done.stdout.decode())
    for name in ("SigIgn", "SigCgt", "SigBlk"):
        ours = next(line for line in lines if line.startswith(name))
        assert ours in expected.stdout
    assert next(line for line in lines if line.startswith("SigCgt")).endswith("\t" + "0" * 16)


def test_types_are_gone_and_names_are_not(make: Maker) -> None:
    program = make(
        main="""
        \"\"\"A doc string.\"\"\"
        from __future__ import annotations
        import posix
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from collections.abc import Mapping
            import nonsense
        number: int = 3
        later: Mapping[str, int]
        class Box:
            size: int
            def grow(self, by: nonsense.Type = 2) -> Box:
                \"\"\"Grow.\"\"\"
                wanted: int
                return by
        def main() -> int | None:
            found = __doc__, number, "later" in globals(), Box.grow.__annotations__, Box().grow(), Box.grow.__doc__
            posix.write(1, repr(found).encode())
        """
    )
    assert said(run(program)) == (None, 3, False, {}, 2, None)


def test_names_that_nobody_uses_are_forgotten(make: Maker) -> None:
    """Of built-in modules only what some module of the package names is there, and none keeps a large table for it."""
    program = make(
        main="""
        import errno, posix, sys
        from krun_init import other
        def main():
            left = sorted(name for name in errno.__dict__ if name[0] != "_")
            small = len(posix.__dict__) < 30 and sys.getsizeof(posix.__dict__) < 3000
            posix.write(1, repr((left, small, "_forget" in sys.modules, other.find())).encode())
        """,
        other="""
        import errno
        def find():
            return errno.EPIPE, errno.EIO
        """,
    )
    assert said(run(program)) == (["EIO", "EPIPE"], True, True, (32, 5))


@pytest.mark.root
def test_as_pid_1_nothing_is_writable_and_executable(make: Maker) -> None:
    program = make(
        main="""
        import posix
        def main():
            fd = posix.open("/proc/self/maps", 0)
            posix.write(1, posix.read(fd, 65536))
            kept = [str(number) for number in range(200_000)]
            return posix.getpid() + len(kept) - 200_000
        """
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", program]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (1, b"")
    modes = [line.split()[1] for line in done.stdout.decode().splitlines() if "[" not in line]
    assert "rw-p" in modes
    assert "r-xp" in modes
    assert not [mode for mode in modes if "w" in mode and "x" in mode]
