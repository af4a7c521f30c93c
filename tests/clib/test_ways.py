"""The library in a C program's process: however that came to be, whatever is around it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clib.library import compiled, environment, folder, run

WAYS = ("plain", "thread", "threads", "fork", "fork-first", "fork-twice", "fork-thread", "fork-busy", "contexts")
QUIET = ("signals", "environment", "locale")


@pytest.mark.parametrize("way", [*WAYS, *QUIET])
def test_the_same_calls_everywhere(way: str) -> None:
    done = run(compiled("ways.c"), way)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("way", ["plain", "thread", "fork", "fork-thread", "signals"])
def test_a_client_may_hide_it_from_others(way: str) -> None:
    """dlopen with RTLD_LOCAL, as runtimes do it."""
    done = run(compiled("ways.c", "-DLOADED", linked=False), str(folder() / "libkrun.so.1"), way)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.root
def test_after_chroot_nothing_of_the_host_is_needed(tmp_path: Path) -> None:
    done = run(compiled("ways.c"), "chroot", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "fine\n"
    assert "this is a bug" not in done.stderr
    assert "No module" not in done.stderr


def test_an_empty_environment_is_enough() -> None:
    done = run(compiled("ways.c"), "plain", env={})
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_variables_of_python_do_not_matter(tmp_path: Path) -> None:
    """Everything a user may have set for another Python, and modules that would break this one."""
    for name in ("os", "logging", "signal", "encodings", "pykrun", "_cffi_backend", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(77)\n")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("python3", "python", f"python3.{sys.version_info[1]}"):
        (bin_folder / name).write_text("#!/bin/sh\nexit 77\n")
        (bin_folder / name).chmod(0o755)
    hostile = {
        "PYTHONHOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "PYTHONSTARTUP": str(tmp_path / "os.py"),
        "PYTHONDEBUG": "1",
        "PYTHONVERBOSE": "1",
        "PYTHONINSPECT": "1",
        "PYTHONMALLOC": "debug",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "PYTHONCASEOK": "1",
        "PYTHONNOUSERSITE": "",
        "PYTHONUSERBASE": str(tmp_path),
        "PYTHONPLATLIBDIR": "nowhere",
        "LC_ALL": "POSIX",
        "LD_LIBRARY_PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [compiled("ways.c"), "plain"],
        env=environment() | hostile,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$1" plain {closed}', "sh", compiled("ways.c")], timeout=60, stdout=subprocess.PIPE
    )
    assert done.returncode == 0


# ---- another Python

PROBE = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1])); print('loaded')"


def refused(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the process ended as it is to, with one line that says why."""
    lines = done.stderr.splitlines()
    return (
        done.returncode == 125 and "loaded" not in done.stdout and len(lines) == 1 and lines[0].startswith("libkrun: ")
    )


def pythons() -> list[str]:
    """This one, and the system's."""
    return list(dict.fromkeys([sys.executable, *(path for path in ("/usr/bin/python3",) if os.path.exists(path))]))


@pytest.mark.parametrize("python", pythons())
def test_a_process_that_is_python_is_refused(python: str) -> None:
    done = run(Path(python), "-I", "-c", PROBE, str(folder() / "libkrun.so.1"))
    assert refused(done), done
    assert "import pykrun.krun instead" in done.stderr


def shared_pythons() -> list[str]:
    """Programs that can say where their libpython is."""
    ask = (
        "import os, sysconfig as s; g = s.get_config_var; "
        "print(next((p for p in (os.path.join(g(d) or '', g('INSTSONAME') or '') for d in ('LIBDIR',)) "
        "if '.so' in p and os.path.exists(p)), ''))"
    )
    found = []
    for python in pythons():
        done = subprocess.run([python, "-I", "-c", ask], capture_output=True, text=True, timeout=60)
        found.append(done.stdout.strip())
    return [path for path in dict.fromkeys(found) if path]


@pytest.mark.parametrize("library", shared_pythons())
def test_a_program_linked_with_python_is_refused(library: str) -> None:
    """Before the library and behind it, whether its Python was started or not."""
    for flags in ((library,), ("-Wl,--no-as-needed", library)):
        program = compiled("ways.c", "-Wl,--no-as-needed", *flags, f"-Wl,-rpath,{Path(library).parent}")
        done = run(program, "plain")
        assert refused(done), done
    program = compiled(
        "ways.c", "-DLOADED", "-Wl,--no-as-needed", library, f"-Wl,-rpath,{Path(library).parent}", linked=False
    )
    done = run(program, str(folder() / "libkrun.so.1"), "plain")
    assert refused(done), done
