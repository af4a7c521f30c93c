"""From the table to the folder with libkrun.so.1, libkrun.so, libkrun.h and pkgconfig/libkrun.pc."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from pykrun.blob.cache import Progress, locked, publish, scratch
from pykrun.clib import lookup
from pykrun.clib.abi import VERSION
from pykrun.clib.header import render_cdef, render_header, render_version_script, signatures
from pykrun.clib.lookup import LIBRARY, PACK, Interpreter
from pykrun.clib.pack import BOOT, LENGTH, SELF
from pykrun.clib.tools import Cffi, provide_cffi
from pykrun.errors import LibraryError
from pykrun.host.checkout import command_for

MODULE = "_libkrun"

DECLARATIONS = """
void krunlib_save_signals(void);
void krunlib_restore_signals(void);
int krunlib_is_handled(int number);
extern char **environ;
"""
"""What the glue needs of C, for cffi."""

PRELUDE = """
#include <stdbool.h>
#include <unistd.h>
#include "library.h"
static int cffi_start_python(void);
int krunlib_start_cffi(void) { return cffi_start_python(); }
"""

INIT = """
{boot}
from {module} import ffi, lib
from pykrun.clib.glue import install
install(ffi, lib, {signatures!r})
pack["leave_files"]()
"""
"""The library's first words in Python."""

WRITE_PACK = "import sys; sys.path.insert(0, sys.argv[1]); from pykrun.clib.pack import write; write(sys.argv[2])"

EMIT = """
import json, sys
import cffi
text = json.load(sys.stdin)
ffi = cffi.FFI()
ffi.embedding_api(text["functions"])
ffi.cdef(text["declarations"])
ffi.set_source(text["module"], text["prelude"])
ffi.embedding_init_code(text["init"])
ffi.emit_c_code(text["output"])
"""
"""A program for the interpreter that has cffi."""

COMPILE = (
    *("-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wall"),
    *(f"-Wl,-soname,{LIBRARY}", "-Wl,-z,nodelete", "-Wl,-z,defs", "-Wl,-z,relro"),
    "-Wl,--disable-new-dtags",  # an RPATH: LD_LIBRARY_PATH must not lead to another libpython
)

PKG_CONFIG = f"""\
libdir=${{pcfiledir}}/..
includedir=${{pcfiledir}}/..

Name: libkrun
Description: a command in a microVM (pykrun's implementation of libkrun's C interface)
Version: {VERSION}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -Wl,-rpath,${{libdir}} -lkrun
"""


def build(progress: Progress | None = None, *, again: bool = False) -> Path:
    """The folder of the library for the running interpreter; built when the cache does not have it.

    :param progress: called with one line for each step.
    :param again: build even when the cache has it.
    :raise MissingError: something that the build needs is not there; the hint says what to install.
    :raise LibraryError: the build failed.
    """
    report = progress or (lambda line: None)
    found = None if again else lookup.find()
    if found:
        return found
    python = lookup.interpreter()
    _check(python)
    folder = lookup.library_folder()
    with locked(folder, report):
        found = None if again else lookup.find()
        if found:  # built while we waited
            return found
        cffi = provide_cffi(python, report)
        report("compiling libkrun.so.1")
        entry = lookup.entry_folder(python)
        with scratch(folder) as work:
            made = work / "made"
            made.mkdir()
            _fill(made, entry, python, cffi, work)
            publish(made, entry)
    return entry


def _check(python: Interpreter) -> None:
    """Say what is missing before anything is made.

    :raise MissingError: something is.
    """
    version = f"{python.program.name.removeprefix('python')}"
    if not python.library.exists():
        raise lookup.missing(
            f"{python.program} has no shared library {python.library.name}",
            f"libpython{version} (or use another Python)",
        )
    if not _include().joinpath("Python.h").exists():
        raise lookup.missing(f"the headers of {python.program} are not there", f"libpython{version}-dev")
    if shutil.which("gcc") is None:
        raise lookup.missing("there is no gcc", "gcc and libc6-dev")


def _include() -> Path:
    return Path(sysconfig.get_path("include"))


def _fill(made: Path, entry: Path, python: Interpreter, cffi: Cffi, work: Path) -> None:
    """Make everything that belongs into the folder, which is going to be `entry`."""
    key = lookup.source_key(python)
    backend = made / "python"
    cffi.copy_backend(backend)
    (made / "libkrun.h").write_text(render_header())
    (made / "pkgconfig").mkdir()
    (made / "pkgconfig" / "libkrun.pc").write_text(PKG_CONFIG)
    (made / "libkrun.so").symlink_to(LIBRARY)
    (work / "places.h").write_text(_places(python, entry / backend.name))
    (work / "exported").write_text(render_version_script())
    source = work / "functions.c"
    _run([str(python.program), "-I", "-S", "-c", WRITE_PACK, str(lookup.SOURCE), str(made / PACK)], work)
    _emit(cffi, source, entry / PACK)
    _compile(made / LIBRARY, source, python, work)
    about = {"key": key, "size": (made / LIBRARY).stat().st_size, "python": str(python.program), "cffi": cffi.version}
    (made / lookup.MANIFEST).write_text(json.dumps(about))


def _places(python: Interpreter, backend: Path) -> str:
    """What the library is not to look for when it is loaded."""
    search = [*python.paths, backend, lookup.SOURCE]
    values = {
        "LIBPYTHON": python.library,
        "EXECUTABLE": python.program,
        "PREFIX": sysconfig.get_config_var("installed_base"),
        "EXEC_PREFIX": sysconfig.get_config_var("installed_platbase"),
        "SET_UP": command_for("pykrun.clib", "lib"),
    }
    lines = [f"#define {name} {_quote(str(value))}\n" for name, value in values.items()]
    return "".join(lines) + f"#define SEARCH {{{', '.join(_quote(str(path)) for path in search)}}}\n"


def _quote(text: str) -> str:
    """A string as C writes it; octal escapes, since hexadecimal ones do not end by themselves."""
    return (
        '"'
        + "".join(
            chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}" for byte in os.fsencode(text)
        )
        + '"'
    )


def _emit(cffi: Cffi, output: Path, pack: Path) -> None:
    boot = BOOT.format(path=str(pack), length=LENGTH, self=SELF)
    text = {
        "functions": render_cdef(),
        "declarations": DECLARATIONS,
        "module": MODULE,
        "prelude": PRELUDE,
        "init": INIT.format(boot=boot, module=MODULE, signatures=signatures()),
        "output": str(output),
    }
    _run([*cffi.command, "-c", EMIT], output.parent, stdin=json.dumps(text))


def _compile(library: Path, source: Path, python: Interpreter, work: Path) -> None:
    _run(
        [
            "gcc",
            *COMPILE,
            *(f"-I{_include()}", f"-I{work}", f"-I{lookup.FOLDER}"),
            f"-Wl,--version-script={work / 'exported'}",
            f"-Wl,-rpath,{python.library.parent}",
            *("-o", str(library), str(source), str(lookup.FOLDER / "library.c"), str(python.library), "-ldl"),
        ],
        work,
    )


def _run(command: list[str], cwd: Path, *, stdin: str = "") -> None:
    """Run a step of the build.

    :raise LibraryError: it failed; the message ends with what it said.
    """
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-20:]
        raise LibraryError(f"the C library cannot be built: {command[0]} failed:\n" + "\n".join(lines))
