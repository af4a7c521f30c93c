"""The table, the header that is made from it, and the library that is built."""

from __future__ import annotations

import ast
import inspect
import marshal
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pykrun import krun
from pykrun.clib.abi import FUNCTIONS, SECTIONS
from pykrun.clib.abi.kinds import Function
from pykrun.clib.header import render_cdef, render_header
from pykrun.clib.pack import LENGTH
from tests.clib.library import folder

FUNCTIONS_OF_LIBKRUN = 67


def readelf(*options: str) -> str:
    command = ["readelf", "-W", *options, str(folder() / "libkrun.so.1")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_all_functions_and_no_others() -> None:
    names = [function.name for function in FUNCTIONS]
    assert len(set(names)) == len(names) == FUNCTIONS_OF_LIBKRUN
    assert set(names) == {name for name in krun.__all__ if name.startswith("krun_")}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_python_takes_what_c_takes(function: Function) -> None:
    if function.name == "krun_get_default_init":
        return
    assert list(inspect.signature(getattr(krun, function.name)).parameters) == [p.name for p in function.params]


def test_only_the_functions_are_exported() -> None:
    symbols = [line.split() for line in readelf("--dyn-syms").splitlines() if re.match(r" +\d+:", line)]
    exported = {fields[7] for fields in symbols if len(fields) > 7 and fields[6] != "UND" and fields[4] != "LOCAL"}
    assert exported == {function.name for function in FUNCTIONS}


def test_its_name_and_that_it_stays() -> None:
    dynamic = readelf("--dynamic")
    assert "Library soname: [libkrun.so.1]" in dynamic
    assert "NODELETE" in dynamic
    assert "(RUNPATH)" not in dynamic, "LD_LIBRARY_PATH would come before it"


def test_constants_have_libkruns_values(tmp_path: Path) -> None:
    """One of each kind; the compiler checks."""
    checks = {
        "KRUN_LOG_TARGET_DEFAULT": -1,
        "KRUN_LOG_LEVEL_TRACE": 5,
        "KRUN_LOG_STYLE_NEVER": 2,
        "KRUN_LOG_OPTION_NO_ENV": 1,
        "KRUN_DISK_FORMAT_VMDK": 2,
        "KRUN_SYNC_FULL": 2,
        "KRUN_KERNEL_FORMAT_IMAGE_ZSTD": 5,
        "NET_FLAG_VFKIT": 1,
        "NET_FLAG_DHCP_CLIENT": 2,
        "NET_FEATURE_HOST_UFO": 0x4000,
        "COMPAT_NET_FEATURES": 0x4C83,
        "KRUN_TSI_HIJACK_UNIX": 2,
        "KRUN_FEATURE_INPUT": 4,
        "KRUN_FEATURE_TEE": 6,
        "KRUN_FEATURE_INIT_BLOB": 11,
        "KRUN_MAX_DISPLAYS": 16,
        "KRUN_VIRTIO_DEVICE_VSOCK": 19,
        "KRUN_VIRTIO_DEVICE_CAN": 36,
        "KRUN_VHOST_USER_SND_NUM_QUEUES": 4,
        "VIRGLRENDERER_DRM": 0x400,
        "sizeof KRUN_FS_ROOT_TAG": 10,
    }
    lines = [f'_Static_assert({name} == {value}, "{name}");' for name, value in checks.items()]
    lines.append(
        "const uint16_t *sizes(void) { static const uint16_t *p; p = KRUN_VHOST_USER_RNG_QUEUE_SIZES; return p; }"
    )
    source = tmp_path / "constants.c"
    source.write_text("#include <libkrun.h>\n#include <libkrun.h>\n" + "\n".join(lines) + "\n")
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-c", "-o", "/dev/null", f"-I{folder()}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "language", [["-x", "c", "-std=c99"], ["-x", "c", "-std=gnu17", "-Wstrict-prototypes"], ["-x", "c++"]], ids=str
)
def test_the_header_compiles_alone(language: list[str], tmp_path: Path) -> None:
    if "c++" in language and subprocess.run(["which", "g++"], capture_output=True, timeout=60).returncode:
        pytest.skip("no g++ on PATH (apt-get install g++)")
    calls = "".join(f"    (void)&{function.name};\n" for function in FUNCTIONS)
    source = tmp_path / "program"
    source.write_text(f"#include <libkrun.h>\nint main(void)\n{{\n{calls}    return 0;\n}}\n")
    compiler = "g++" if "c++" in language else "gcc"
    command = [
        compiler,
        *language,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-c",
        "-o",
        "/dev/null",
        f"-I{folder()}",
    ]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_installed_header_is_the_tables() -> None:
    assert (folder() / "libkrun.h").read_text() == render_header()
    assert (folder() / "libkrun.so").resolve() == folder().resolve() / "libkrun.so.1"


def test_everything_is_explained() -> None:
    for section in SECTIONS:
        for function in section.functions:
            assert function.about
            assert all(param.meaning for param in function.params)
    assert max(len(line) for line in render_header().splitlines()) <= 120
    assert render_cdef().count("\n") == FUNCTIONS_OF_LIBKRUN


NOT_IN_THE_PROCESS = ("pykrun.clib", "pykrun.kernel", "pykrun.sandbox", "pykrun.blob.build")
"""Packed because something of theirs is used; the rest of them runs in the supervisor's process."""


def test_no_function_of_the_process_imports_what_is_not_at_hand() -> None:
    """After a chroot no import could look at files."""
    _, _, modules, extensions = marshal.loads((folder() / "modules").read_bytes()[LENGTH:])
    known = {*modules, *extensions, *sys.builtin_module_names, *FROZEN}
    missing = [
        f"{name}, {function.name}: {wanted}"
        for name, (_, file, _, _) in modules.items()
        if name.startswith("pykrun.")
        for function in ast.walk(ast.parse(Path(file).read_bytes()))
        if isinstance(function, ast.FunctionDef)
        if not f"{name}.{function.name}".startswith(NOT_IN_THE_PROCESS)
        for node in ast.walk(function)
        for wanted in _imported(node)
        if wanted not in known
    ]
    assert not missing, "add them to pykrun.clib.pack.LATER"


FROZEN = ("os", "sys", "io", "abc", "stat", "codecs", "_frozen_importlib_external")


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
