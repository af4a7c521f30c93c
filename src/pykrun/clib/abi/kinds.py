"""What the table of the C interface is made of: kinds of parameters, parameters, functions, constants, sections."""

from __future__ import annotations

from pykrun.record import record


@record(frozen=True, slots=True)
class Kind:
    """What a parameter is in C, and so what the glue makes of it.

    :param name: the glue's word for it.
    :param c: its declaration, with `{}` for the parameter's name.
    :param cdef: the same in words that cffi knows.
    """

    name: str
    c: str
    cdef: str


def _plain(c: str, cdef: str = "") -> Kind:
    return Kind("number", f"{c} {{}}", f"{cdef or c} {{}}")


U8 = _plain("uint8_t")
U16 = _plain("uint16_t")
U32 = _plain("uint32_t")
U64 = _plain("uint64_t")
SIZE = _plain("size_t")
INT = _plain("int")
BOOL = _plain("bool")
UID = _plain("uid_t", "uint32_t")
GID = _plain("gid_t", "uint32_t")
TEXT = Kind("text", "const char *{}", "const char *{}")
TEXT_RW = Kind("text", "char *{}", "char *{}")
"""Text that is not written to, although its declaration would allow it."""
TEXTS = Kind("texts", "const char *const {}[]", "const char *const {}[]")
"""Strings up to a NULL pointer."""
ENVIRONMENT = Kind("environment", "const char *const {}[]", "const char *const {}[]")
"""As TEXTS; NULL stands for the process' own environment, which must be looked up first."""
MAC = Kind("mac", "uint8_t *const {}", "uint8_t *const {}")
BYTES = Kind("data", "const uint8_t *{}", "const uint8_t *{}")
"""As many bytes as the parameter says that follows."""
STRUCT = Kind("data", "const void *{}", "const void *{}")
"""As BYTES."""
SIZES = Kind("sizes", "const uint16_t *{}", "const uint16_t *{}")
"""As many numbers as the parameter before it says; up to a 0, if that is 0."""
DATA_OUT = Kind("data_out", "const uint8_t **{}", "const uint8_t **{}")
SIZE_OUT = Kind("size_out", "size_t *{}", "size_t *{}")


@record(frozen=True, slots=True)
class Param:
    """A parameter of a function.

    :param meaning: what it says, for the header.
    """

    name: str
    kind: Kind
    meaning: str


CTX = Param("ctx_id", U32, "the context, as krun_create_ctx() returned it")


@record(frozen=True, slots=True)
class Function:
    """A function of the interface; all return an int32_t.

    :param about: what it does, paragraphs for the header.
    :param errors: negative results beside those that many functions have, e.g. "-EEXIST: the path is taken".
    :param result: what it returns on success.
    """

    name: str
    params: tuple[Param, ...]
    about: str
    errors: tuple[str, ...] = ()
    result: str = "0"


@record(frozen=True, slots=True)
class Constant:
    """A macro of the header.

    :param value: as C writes it.
    """

    name: str
    value: str
    about: str = ""


@record(frozen=True, slots=True)
class Section:
    """A theme of the interface.

    :param about: what all of it has in common; may be empty.
    """

    title: str
    functions: tuple[Function, ...]
    constants: tuple[Constant, ...] = ()
    about: str = ""


def function(name: str, *params: Param, about: str, errors: tuple[str, ...] = (), result: str = "0") -> Function:
    """A function of a context, which is its first parameter."""
    return Function(f"krun_{name}", (CTX, *params), about, errors, result)
