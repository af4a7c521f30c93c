"""What ./demo shows: a Linux microVM from files that exist only in memory, on every engine of this machine."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "examples" / "hello.c"
ENGINES = {"uml": ("User Mode Linux", "linux.uml"), "qemu": ("QEMU", "qemu-system-x86_64")}
EXIT_CODE = 42
SECRET = "the key to everything"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


class Failed(Exception):
    """The demo did not show what it promises; the message says what."""


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ./demo | head ends quietly
    try:
        program = compile_program()
        explain(program)
        first = boot("auto", program)
        for name, (title, executable) in ENGINES.items():
            if name == first:
                continue
            if shutil.which(executable) is None:
                say(f"({title} is not installed here: no {executable} on PATH.)")
            else:
                boot(name, program)
        say("More: ./pykrun run --help, README.md")
    except Failed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"demo: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        sys.stdout = None  # what is in its buffer cannot be written at exit either
        return 1
    return 0


def compile_program() -> Path:
    """The guest's static program, below the cache and named after its source."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if compiler is None:
        raise Failed("no C compiler; apt-get install musl-tools")
    sys.path.insert(0, str(ROOT / "src"))
    from pykrun.host.cache import cache_directory

    cache = cache_directory() / "demo"
    program = cache / f"hello-{hashlib.sha256(SOURCE.read_bytes() + compiler.encode()).hexdigest()[:16]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-static", "-Os", "-s", "-o", unfinished, SOURCE], check=True, timeout=120)
        unfinished.rename(program)
    return program


def explain(program: Path) -> None:
    say(bold("A root file system is composed in memory. No directory of this machine is shared."))
    show(f"/hello           a static program of {program.stat().st_size // 1000} kB, examples/hello.c")
    show("/etc/motd        a text")
    show("/secret          one-shot: whoever looks it up first has it, then it is gone")
    show("/dev /proc /sys  empty folders, for the guest's kernel")


def boot(engine: str, program: Path) -> str:
    """Run the program in a VM, show what it prints, check what is promised; return the engine that ran it."""
    secret = os.memfd_create("secret", 0)  # without close-on-exec: pykrun reads it as /dev/fd/N
    os.write(secret, SECRET.encode())
    os.lseek(secret, 0, os.SEEK_SET)
    lines = [
        ["run", *([] if engine == "auto" else ["--engine", engine]), "-v"],
        ["--file", f"/hello={program}:0755"],
        ["--text", "/etc/motd=hello from nowhere"],
        ["--secret", f"/secret=/dev/fd/{secret}"],
        ["--", "/hello", "two words", "--flag"],
    ]
    title = "a VM" if engine == "auto" else f"the same on {ENGINES[engine][0]}"
    say(bold(f"Boot {title}:"))
    show("$ ./pykrun " + " \\\n      ".join(shlex.join(line) for line in lines).replace(str(Path.home()), "~"))
    print(flush=True)
    before = time.perf_counter()
    try:
        result = subprocess.run(
            [ROOT / "pykrun", *(word for line in lines for word in line)],
            pass_fds=[secret],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=180,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{title}: did not end within 180 s") from None
    finally:
        os.close(secret)
    seconds = time.perf_counter() - before
    output, errors = result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")
    ours = [line for line in errors.splitlines() if line.startswith("pykrun:")]
    theirs = [line for line in errors.splitlines() if not line.startswith("pykrun:")]
    for mark, heard in (("out", output.splitlines()), ("err", theirs)):
        for line in heard:
            show(f"{dim(mark)}  {line}")
    check(result.returncode, output, theirs, ours)
    name, isolation = engine_of(ours)
    print()
    show(f"exit code {result.returncode}, {seconds * 1000:.0f} ms from the command to its end")
    show(f"engine {ENGINES[name][0]}, isolation: {isolation}")
    return name


def check(status: int, output: str, errors: list[str], ours: list[str]) -> None:
    """What the program printed is what the root and the command line promise."""
    secrets = [line.split(maxsplit=1)[1] for line in output.splitlines() if line.startswith("/secret")]
    problems = {
        f"the exit code is {status}, not {EXIT_CODE}": status != EXIT_CODE,
        "the arguments did not arrive": "two words\n" not in output or " --flag\n" not in output,
        "the secret could not be read": not secrets or secrets[0] != SECRET,
        "the secret could be read twice": len(secrets) != 2 or "No such file" not in secrets[1],
        "standard error did not arrive on its own": errors != ["and this goes to standard error"],
    }
    found = [problem for problem, is_so in problems.items() if is_so]
    if found:
        raise Failed("; ".join(found) + "".join(f"\n  {line}" for line in ours))


def engine_of(lines: list[str]) -> tuple[str, str]:
    """Name and isolation from the line of -v that tells them."""
    for line in lines:
        name, comma, isolation = line.removeprefix("pykrun: engine ").partition(", isolation ")
        if comma:
            return name, isolation
    raise Failed("pykrun -v did not name the engine")


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def show(text: str) -> None:
    print(f"  {text}", flush=True)


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if COLOUR else text


def dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if COLOUR else text


if __name__ == "__main__":
    sys.exit(main())
