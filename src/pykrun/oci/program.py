"""Whether the program to run is there: a caller hears of that from `create`, in the words that it looks for."""

from __future__ import annotations

import os
import stat

from pykrun.errors import PykrunError
from pykrun.oci.process import Process
from pykrun.oci.rootfs import RootFs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What programs are looked for in when the environment has no PATH: as the guest's init has it."""


class ProgramError(PykrunError):
    """The program is not there, or not to be executed."""


def check_program(root: RootFs, process: Process, is_hidden: Callable[[str], bool]) -> None:
    """Look for the program in the tree.

    :param is_hidden: whether the guest mounts something there, so that nobody here can know.
    :raise ProgramError: it is not there, or is no executable file.
    """
    name = process.arguments[0]
    path = next((word[5:] for word in reversed(process.environment) if word.startswith("PATH=")), DEFAULT_PATH)
    folders = [process.directory] if "/" in name else path.split(":")
    denied = False
    for folder in folders:
        place = os.path.join(process.directory, folder, name)
        if is_hidden(place):
            return
        try:
            found = root.find(place)
        except FileNotFoundError:
            continue
        except OSError:
            denied = True
            continue
        mode = os.fstat(found).st_mode
        os.close(found)
        if stat.S_ISREG(mode) and mode & 0o111:
            return
        denied = True
    if denied:
        raise ProgramError(f"cannot execute `{name}`: permission denied")
    if "/" in name:
        raise ProgramError(f"executable file `{name}` not found: No such file or directory")
    raise ProgramError(f"executable file `{name}` not found in $PATH: No such file or directory")
