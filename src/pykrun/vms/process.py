"""A further command, described as a door takes it: an OCI process object (docs/exec.md)."""

from __future__ import annotations

import os

from pykrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def describe(
    words: Sequence[str | bytes],
    *,
    environment: Mapping[str, str],
    workdir: str | None = None,
    user: str | tuple[int, int] | None = None,
    rlimits: Sequence[tuple[int, int, int]] = (),
    terminal: bool = False,
    window: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Describe a command that has everything else from the workload.

    :param environment: variables over the workload's.
    :param user: `NAME[:GROUP]`, which the guest's /etc/passwd and /etc/group know, or numbers, of which the group's is
        the user's if it is left out.
    :param rlimits: (RLIMIT number, soft, hard), in place of the workload's.
    :param window: rows and columns of the terminal.
    :raise UsageError: there can be no such user.
    """
    process: dict[str, Any] = {
        "args": list(map(os.fsdecode, words)),
        "env": [f"{name}={value}" for name, value in environment.items()],
        "inherit_env": True,
    }
    if workdir is not None:
        process["cwd"] = workdir
    if user is not None:
        process["user"] = _user(user)
    if rlimits:
        process["rlimits"] = _limits(rlimits)
    if terminal:
        process["terminal"] = True
        if window is not None:
            process["consoleSize"] = {"height": window[0], "width": window[1]}
    return process


def _limits(rlimits: Sequence[tuple[int, int, int]]) -> list[dict[str, int | str]]:
    import resource

    # In reverse, so that NOFILE wins over OFILE, its old name.
    names = {getattr(resource, name): name for name in reversed(dir(resource)) if name.startswith("RLIMIT_")}
    return [{"type": names[number], "soft": soft, "hard": hard} for number, soft, hard in rlimits]


def _user(user: str | tuple[int, int]) -> dict[str, int | str]:
    if isinstance(user, tuple):
        return {"uid": user[0], "gid": user[1]}
    parts = user.split(":")
    if not 1 <= len(parts) <= 2 or not all(parts) or "\0" in user:
        raise UsageError(f"a user is NAME[:GROUP] or UID[:GID], not {user!r}")
    if all(part.isascii() and part.isdigit() and int(part) < (1 << 32) - 1 for part in parts):
        return {"uid": int(parts[0]), "gid": int(parts[-1])}
    return {"username": user}
