"""What runs in the guest: program, arguments, environment, directory, limits."""

from __future__ import annotations

import errno
import os

from pykrun.krun.calls import Refusal, Text, Texts, call, text, texts
from pykrun.krun.context import find


@call
def krun_set_exec(ctx_id: int, exec_path: Text, argv: Texts, envp: Texts) -> int:
    """Set the program, its arguments and its environment.

    None of it goes through the kernel's command line: any number of words of any text arrive as they are.

    :param argv: the arguments, without argv[0]; NULL for none.
    :param envp: "NAME=value" each; NULL for the environment of this process as it is now.
    :return: 0; -EINVAL: a path that is NULL, no UTF-8 text, more than 4096 entries; -ENOENT: no such context.
    """
    path = text("exec_path", exec_path)
    args = [] if argv is None else texts("argv", argv)
    env = _environment(envp)
    context = find(ctx_id)
    context.exec_path, context.args, context.env = path, args, env
    return 0


@call
def krun_set_env(ctx_id: int, envp: Texts) -> int:
    """Set the environment alone; a later `krun_set_exec` replaces it.

    :param envp: see `krun_set_exec`.
    :return: 0; -EINVAL: no UTF-8 text, more than 4096 entries; -ENOENT: no such context.
    """
    env = _environment(envp)
    find(ctx_id).env = env
    return 0


@call
def krun_set_workdir(ctx_id: int, workdir_path: Text) -> int:
    """Set the working directory, in the guest.

    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context.
    """
    path = text("workdir_path", workdir_path)
    find(ctx_id).workdir = path
    return 0


@call
def krun_set_rlimits(ctx_id: int, rlimits: Texts) -> int:
    """Set resource limits of the program: "ID=CUR:MAX" each, numbers as in <sys/resource.h>.

    The guest skips what it cannot read, with a warning, as libkrun's does.

    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context.
    """
    limits = texts("rlimits", rlimits)
    find(ctx_id).rlimits = limits
    return 0


def _environment(envp: Texts) -> list[bytes]:
    """The entries as bytes: this process's own may be no UTF-8 text, and are handed on as they are."""
    if envp is None:
        return [name + b"=" + value for name, value in os.environb.items()]
    entries = texts("envp", envp)
    for entry in entries:
        if entry.startswith("="):
            raise Refusal(errno.EINVAL, f"{entry!r} has no name")
    return [entry.encode() for entry in entries]
