"""The runtime directory: where it is, and whether it is ours alone."""

from __future__ import annotations

import os
import stat

from pykrun.errors import UsageError


def runtime_path() -> str:
    """Return where this user's VMs are listed; it need not exist.

    XDG_RUNTIME_DIR counts if it is this user's: sudo leaves that of somebody else.
    """
    user = os.geteuid()
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        try:
            if os.stat(given).st_uid == user:
                return os.path.join(given, "pykrun")
        except OSError:
            pass
    return "/run/pykrun" if user == 0 else f"/tmp/pykrun-vms-{user}"


class Directory:
    """The runtime directory, opened: whatever happens to its name, it stays the one that was looked at.

    :param make: make it if it is not there.
    :ivar descriptor: refers to it.
    :raise FileNotFoundError: it is not there.
    :raise UsageError: it is not this user's alone.
    :raise OSError: it cannot be made or opened.
    """

    def __init__(self, *, make: bool) -> None:
        self.path = runtime_path()
        if make:
            try:
                os.mkdir(self.path, 0o700)
            except FileExistsError:
                pass
        try:
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except NotADirectoryError:  # a symbolic link too
            raise UsageError(f"{self.path} is no directory, and VMs cannot be listed there", "remove it") from None
        status = os.fstat(self.descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            self.close()
            raise UsageError(
                f"{self.path} is not this user's alone, and VMs cannot be listed there",
                "it has to belong to you, with mode 0700; or set XDG_RUNTIME_DIR",
            )

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)
