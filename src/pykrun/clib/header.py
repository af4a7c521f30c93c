"""What is made from the table: libkrun.h for programs, words for cffi and the linker, the glue's plan."""

from __future__ import annotations

import textwrap

from pykrun.clib.abi import FUNCTIONS, SECTIONS, VERSION, Constant, Function, Section

WIDTH = 100

_TOP = f"""\
/*
 * libkrun.h: a command in a microVM. The interface is that of libkrun {VERSION}; this header and the library behind it
 * are pykrun's, written anew. Do not edit: made from a table (pykrun.clib.abi).
 *
 * Functions return 0 or more on success and a negative errno when they fail. Beside the errors that are named with them
 * there are, for all: -ENOENT: no such context; -EINVAL: text that is NULL where it may not be, or is not UTF-8, or an
 * array with more than 4096 entries. Arrays of strings end with NULL.
 */

#ifndef _LIBKRUN_H
#define _LIBKRUN_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {{
#endif
"""

_BOTTOM = """
#ifdef __cplusplus
}
#endif

#endif /* _LIBKRUN_H */
"""


def render_header() -> str:
    """Return the text of libkrun.h."""
    return _TOP + "".join(_section(section) for section in SECTIONS) + _BOTTOM


def render_cdef() -> str:
    """Return the functions' declarations for cffi."""
    lines = []
    for function in FUNCTIONS:
        params = ", ".join(param.kind.cdef.format(param.name) for param in function.params)
        lines.append(f"int32_t {function.name}({params or 'void'});\n")
    return "".join(lines)


def signatures() -> dict[str, tuple[str, ...]]:
    """Return the kinds of each function's parameters, which is all that the glue needs of the table."""
    return {function.name: tuple(param.kind.name for param in function.params) for function in FUNCTIONS}


def render_version_script() -> str:
    """Return the linker's list of what is exported: the functions and nothing else."""
    names = "".join(f"    {function.name};\n" for function in FUNCTIONS)
    return f"{{\n  global:\n{names}  local:\n    *;\n}};\n"


def _section(section: Section) -> str:
    about = f"\n{_wrap(section.about, ' * ')}" if section.about else ""
    head = f"\n/* ---- {section.title}" + (f"\n *{about}\n */\n" if about else " */\n")
    constants = "".join(_constant(constant) for constant in section.constants)
    return (
        head + (f"\n{constants}" if constants else "") + "".join(_function(function) for function in section.functions)
    )


def _constant(constant: Constant) -> str:
    comment = f"/* {constant.about} */\n" if constant.about else ""
    line = f"#define {constant.name} {constant.value}"
    if len(line) > WIDTH:
        line = " \\\n".join(textwrap.wrap(line, WIDTH - 2, subsequent_indent="    ", break_long_words=False))
    return f"{comment}{line}\n"


def _function(function: Function) -> str:
    lines = ["", "/**"]
    for paragraph in function.about.split("\n\n"):
        lines += [_wrap(paragraph, " * "), " *"]
    for param in function.params:
        if param.name != "ctx_id":
            lines.append(_wrap(f"@param {param.name} {param.meaning}", " * ", " *     "))
    lines.append(_wrap(f"@return {function.result}", " * ", " *     "))
    lines += [_wrap(f"    {error}", " * ", " *         ") for error in function.errors]
    lines += [" */", _prototype(function), ""]
    return "\n".join(lines)


def _prototype(function: Function) -> str:
    params = [param.kind.c.format(param.name) for param in function.params] or ["void"]
    start = f"int32_t {function.name}("
    line = f"{start}{', '.join(params)});"
    return line if len(line) <= WIDTH else start + f",\n{' ' * len(start)}".join(params) + ");"


def _wrap(text: str, first: str, rest: str = " * ") -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False))
