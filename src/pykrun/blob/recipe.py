"""The recipe of the init blob: every choice that has a part in its bytes, and nothing else.

docs/init-blob.md tells why each is as it is. The text of this file is part of the cache's key.
"""

from __future__ import annotations

PYTHON = "3.11"
"""Minor version of CPython. Pinned: the start of the interpreter's core alone (`_init_main`) is private API."""

MODULES = (
    "posix",
    "time",
    "_socket",
    "fcntl",
    "_struct",
    "_json",
    "errno",
    "select",
    "_signal",
)
"""What `krun_init` may import, beside its seam and `sys`, `builtins` and `gc`, which the core always has."""

SEAMS = {"linux": "_linux", "freebsd": "_freebsd"}
"""The guest's system to its native seam: a built-in module, and the C file of that name in `krun_init`."""

ENTRIES = {"linux": "krun_init.main", "freebsd": "krun_init.freebsd"}
"""The guest's system to the module whose `main` is called; only what that imports is frozen."""

CORE_MODULES = ("_thread", "_weakref")
"""Linked because the import system asks for them; not for use."""

EXTENSIONS = {
    "_socket": "socketmodule.c",
    "_struct": "_struct.c",
    "_json": "_json.c",
    "fcntl": "fcntlmodule.c",
    "select": "selectmodule.c",
}
"""Those of MODULES that are not part of CPython's core, and the file in its Modules/ that holds each."""

SOURCE_DATE_EPOCH = "1"
"""Taken by the compiler for `__DATE__` and `__TIME__`."""

COMPILE = (
    "-Os",
    "-g0",
    "-fno-pie",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
    "-Wno-date-time",
)
"""For CPython and for our own files. Fixed addresses (no PIE) are what makes a snapshot possible; sections of their own
let the linker drop what nothing refers to."""

COMPILE_OWN = ("-DNDEBUG", "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers")
"""For our own files only."""

CONFIGURE = (
    "--disable-shared",
    "--without-doc-strings",
    "--without-pymalloc",
    "--without-ensurepip",
    "--disable-test-modules",
    "LINKFORSHARED= ",
)
"""CPython's configure, beside compiler and flags."""

LINK = (
    "-static",
    "-no-pie",
    "-Wl,--gc-sections",
    "-Wl,-z,norelro",
    "-Wl,-z,noexecstack",
    "-Wl,-z,noseparate-code",
    "-Wl,--build-id=none",
    "-Wl,-O1",
    "-Wl,-s",
)
"""One read-only and one writable segment: fewer mappings to make at exec."""

WRAPPED = (
    "_PyParser_ASTFromString",
    "_PyParser_ASTFromFile",
    "_PyParser_InteractiveASTFromFile",
    "_PyAST_Compile",
    "PyAST_mod2obj",
    "PyAST_obj2mod",
    "PyAST_Check",
    "_PyAST_Validate",
    "_PyTokenizer_FindEncodingFilename",
    "_PyConfig_InitPathConfig",
    "_PyAST_Fini",
    "_PyIO_Fini",
)
"""Functions of the core that absent.c stands in for, so that they and all they need stay out of the snapshot."""

SNAPSHOT_SOURCES = ("heap.c", "snapshot.c", "resume.c", "survey.c", "launcher.c", "modules.c", "absent.c")
FROZEN_SOURCES = ("launcher.c", "modules.c", "absent.c")
NATIVE_SOURCES = ("launcher.c", "modules.c")

NATIVE_STAND_INS = {"_json": "native_json.py"}
"""Modules that Debian's archive does not have, and what takes their place in a native build."""

SNAPSHOT_ENVIRONMENT = {"TZ": "UTC0"}
"""All that the program sees when it is saved; the environment has a part in where its objects lie."""

HOT_FILES = ("memcpy.lo", "memset.lo", "memmove.lo", "__set_thread_area.lo", "crt1.o", "crtbegin*.o")
"""Files of the C library that a start needs and that are written in assembler: they have no sections by name."""

HOT_CONSTANTS = (".rodata.opcode_targets.*", ".rodata._PyOpcode_Caches")
"""Tables that a start reads."""

HOT_VARIABLES = (
    "_pydict_global_version",
    "bytes_as_buffer",
    "list_as_mapping",
    "long_as_number",
    "posix_methods",
    "unicode_methods",
    "list_as_sequence",
    "_PyMem",
    "_PyMem_Raw",
    "_PyObject",
    "_Py_tracemalloc_config",
    "PyBaseObject_Type",
    "PyBool_Type",
    "PyBytes_Type",
    "PyCFunction_Type",
    "PyDict_Type",
    "PyFunction_Type",
    "PyList_Type",
    "PyListIter_Type",
    "PyLong_Type",
    "PyMethodDescr_Type",
    "PyModule_Type",
    "PySlice_Type",
    "PyTuple_Type",
    "PyType_Type",
    "PyUnicode_Type",
    "_PyNone_Type",
    "_Py_FalseStruct",
    "_Py_NoneStruct",
    "_Py_TrueStruct",
    # ours
    "allocations",
    "argv_key",
    "data",
    "entry",
    "environment",
    "fresh",
    "fresh_end",
    "later",
    "later_end",
    "front",
    "limit",
    "lists",
    "reserve",
    "resumed",
    "sealed",
    "spread",
    "system_names",
    "text",
    "used",
    "wanted",
    # the C library's
    "__default_stacksize",
    "__environ",
    "__hwcap",
    "__libc",
    "__progname",
    "__progname_full",
    "__stack_chk_guard",
    "__sysinfo",
    "__thread_list_lock",
    "builtin_tls",
    "main_tls",
)
"""Static variables that a start touches."""

START = ("init", "--version")
"""The start whose objects lie side by side: all that the blob can do where it is not PID 1."""

SWITCHES = {"timesync": True, "tee-root": False}
"""Parts that a blob can have or not, and whether it does unless its builder says otherwise. Each has a constant in
`krun_init/switches.py`."""


def setup_local() -> str:
    """CPython's Modules/Setup.local: the extension modules to build in."""
    lines = [f"{name} {file}" for name, file in sorted(EXTENSIONS.items())]
    return "\n".join(["*static*", *lines, "*disabled*", "_testcapi", ""])


def module_macro(system: str = "linux", *, native: bool = False) -> str:
    """The definition of MODULES that modules.c wants."""
    left_out = NATIVE_STAND_INS if native else {}
    linked = (*MODULES, SEAMS[system], *CORE_MODULES)
    return "-DMODULES=" + " ".join(f"X({name})" for name in linked if name not in left_out)


def program_macros(system: str) -> tuple[str, str]:
    """The definitions of ENTRY and SEAM that launcher.c wants for another system than Linux."""
    return (f'-DENTRY="{ENTRIES[system]}"', f'-DSEAM="{SEAMS[system]}"')


def importable(system: str = "linux") -> str:
    """The names that freeze.py lets `krun_init` import."""
    return ",".join((*MODULES, SEAMS[system], "gc"))
