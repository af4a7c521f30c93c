"""Images of registries, through skopeo: it knows the protocol, the credentials, and what the host trusts."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path

from pykrun.errors import ImageError, MissingError
from pykrun.host.linux import set_parent_death_signal
from pykrun.host.programs import find_program
from pykrun.image.documents import ARCHITECTURES

_POLICIES = ("~/.config/containers/policy.json", "/etc/containers/policy.json")
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.zst", ".oci")
_LAST_WORDS = 2000


def copy(name: str, target: Path, arch: str) -> None:
    """Copy an image into a new OCI layout. skopeo compares every digest; on a terminal it shows how far it is.

    :param name: as distribution/reference has it; it has been checked.
    :param arch: the machine whose image it is to be, as `uname -m` calls it.
    :raise MissingError: skopeo is not installed.
    :raise ImageError: it failed.
    """
    program = find_program("skopeo")
    if program is None:
        raise MissingError(
            f"{name} is neither a file nor a folder here, and pulling it takes skopeo", "apt-get install skopeo"
        )
    command = [str(program)]
    if not any(os.path.exists(os.path.expanduser(path)) for path in _POLICIES):
        command.append("--insecure-policy")  # where nobody said whom to trust, skopeo would refuse everything
    command += ["--override-os", "linux", "--override-arch", ARCHITECTURES.get(arch, arch)]
    command += ["copy", f"docker://{name}", f"oci:{target}:latest"]
    shows = os.isatty(2)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2 if shows else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            preexec_fn=partial(set_parent_death_signal, signal.SIGTERM),
        )
    except OSError as error:
        raise ImageError(f"cannot run skopeo: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr[-_LAST_WORDS:].decode("utf-8", "replace").strip().splitlines()
        reason = _reason(lines[-1] if lines else "it says nothing")
        raise ImageError(f"skopeo cannot copy {name}: {reason}", _advice(name))


def _advice(name: str) -> str:
    """Whoever means a file is told that there is none: only then the registry is asked."""
    first, slash, _ = name.partition("/")
    if not os.path.exists(name) and (name.endswith(_ARCHIVES) or (slash and os.path.isdir(first))):
        return f"there is no file or folder {name} here"
    return ""


def _reason(line: str) -> str:
    """The message of a line of logrus: `time="..." level=fatal msg="..."`."""
    _, mark, message = line.partition('msg="')
    return message.rstrip('"').replace('\\"', '"') if mark else line
