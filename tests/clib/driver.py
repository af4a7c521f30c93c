"""The functions of the library, called from C: a program written from the table, which a pipe tells what to call.

`CLibrary` looks like the module `pykrun.krun`, so that what is tested there can be tested here.
"""

from __future__ import annotations

import array
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pykrun.clib.abi import FUNCTIONS, Function, Param
from tests.clib.library import HERE, TIMEOUT, compiled, environment

TAKE = {
    "number": "number()",
    "text": "text()",
    "texts": "texts()",
    "environment": "texts()",
    "mac": "data()",
    "data": "data()",
    "sizes": "sizes()",
    "data_out": "data_out()",
    "size_out": "size_out()",
}
"""What the C program makes of the next word, by the kind of the parameter (driver.c)."""


def _case(function: Function) -> str:
    """Read the words in their order, which C does not promise for arguments."""
    takes = "".join(
        f"{_declare(param, f'a{index}')} = ({_declare(param, '')}){TAKE[param.kind.name]}; "
        for index, param in enumerate(function.params)
    )
    arguments = ", ".join(f"a{index}" for index in range(len(function.params)))
    return f'if (!strcmp(name, "{function.name}")) {{ {takes}return {function.name}({arguments}); }}\n'


def _declare(param: Param, name: str) -> str:
    return param.kind.c.replace("{}[]", "*{}").format(name).strip()


@cache
def driver() -> Path:
    """The program."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "cases.h").write_text("".join(_case(function) for function in FUNCTIONS))
        return compiled(str(HERE / "driver.c"), f"-I{folder}")


class CLibrary:
    """A process that has loaded the library; every function of the table is a method. Text it writes goes to stderr.

    :param env: its whole environment.
    """

    def __init__(self, env: dict[str, str] | None = None, errors: Any = None) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(TIMEOUT)
        with theirs:
            self._process = subprocess.Popen(
                [driver(), str(theirs.fileno())],
                env=environment() if env is None else env,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
            )
        self.init: tuple[int, bytes] = (0, b"")
        """What krun_get_default_init found: how many bytes, and the first few."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = next((function for function in FUNCTIONS if function.name == name), None)
        if function is None:
            raise AttributeError(name)
        params = function.params
        if name == "krun_get_default_init":
            return lambda: (self._call(name, ["o", "o"], []), memoryview(self.init[1]))
        return lambda *values, **named: self._checked(name, params, values, named)

    def _checked(self, name: str, params: tuple[Param, ...], values: tuple[Any, ...], named: dict[str, Any]) -> int:
        given = dict(zip((param.name for param in params), values, strict=False)) | named
        if len(values) > len(params) or given.keys() != {param.name for param in params}:
            raise TypeError(f"{name}() takes {len(params)} arguments")
        descriptors: list[int] = []
        words = [_word(param, given[param.name], descriptors) for param in params]
        return self._call(name, words, descriptors)

    def _call(self, name: str, words: list[str], descriptors: list[int]) -> int:
        message = " ".join([name, *words]).encode()
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._ours.sendmsg([message], control)
        answer = self._ours.recv(4096).decode().split()
        if not answer:
            raise AssertionError(f"the C program ended in {name}: {self._process.wait(TIMEOUT)}")
        if name == "krun_get_default_init":
            self.init = (int(answer[1]), bytes.fromhex(answer[2]) if len(answer) > 2 else b"")
        return int(answer[0])

    def close(self) -> int:
        """End the program; return its exit status."""
        self._ours.close()
        return self._process.wait(TIMEOUT)

    def __enter__(self) -> CLibrary:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _word(param: Param, value: Any, descriptors: list[int]) -> str:
    """One argument as the program reads it."""
    kind = param.kind.name
    if value is None:
        return "n"
    if kind == "number":
        if param.kind.c.startswith("int ") and isinstance(value, int) and value > 2 and _is_open(value):
            descriptors.append(value)
            return "f"
        return f"i{int(value)}"
    if kind == "text":
        return "t" + _bytes(value).hex()
    if kind in ("texts", "environment"):
        return "a" + ",".join("x" if entry is None else "t" + _bytes(entry).hex() for entry in value)
    if kind == "sizes":
        return "s" + ",".join(str(size) for size in value)
    return "d" + bytes(value).hex()


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
