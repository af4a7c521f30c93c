"""Mounting on the host and unmounting again: as root by ourselves, as anybody else through fusermount3.

Who is not root gets what fusermount3 allows everybody: a mount that only its owner enters, without setuid programs and
devices.
"""

from __future__ import annotations

import array
import os
import select
import shutil
import socket
import stat
from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, EPERM

from pykrun.errors import MissingError, PykrunError, UsageError
from pykrun.fuse import wire
from pykrun.fuse.dev_fuse import OPTIONS, open_mount
from pykrun.host import linux
from pykrun.record import field, record

KIND = "fuse.pykrun"
HELPER = "fusermount3"
_HELPER_SECONDS = 20.0

FLAGS = {
    "ro": (linux.MS_RDONLY, True),
    "rw": (linux.MS_RDONLY, False),
    "nosuid": (linux.MS_NOSUID, True),
    "suid": (linux.MS_NOSUID, False),
    "nodev": (linux.MS_NODEV, True),
    "dev": (linux.MS_NODEV, False),
    "noexec": (linux.MS_NOEXEC, True),
    "exec": (linux.MS_NOEXEC, False),
    "sync": (linux.MS_SYNCHRONOUS, True),
    "async": (linux.MS_SYNCHRONOUS, False),
    "dirsync": (linux.MS_DIRSYNC, True),
    "noatime": (linux.MS_NOATIME, True),
    "atime": (linux.MS_NOATIME, False),
}
"""Options that are flags of mount(2), and whether they set or clear it."""
_ROOTS_ALONE = ("suid", "dev")


@record(slots=True, kw_only=True)
class MountOptions:
    """What -o says.

    :param flags: MS_... of mount(2).
    :param words: the same for fusermount3, in the order they were given.
    :param allow_other: users other than the one who mounts may enter, as they always may where root mounts.
    :param source: what the list of mounts shows as the device.
    """

    flags: int = linux.MS_NOSUID | linux.MS_NODEV
    words: list[str] = field(default_factory=list)
    allow_other: bool = False
    source: str = "pykrun"


def parse_options(texts: list[str], *, read_only: bool) -> MountOptions:
    """Read `-o` options, each a list with commas.

    :raise UsageError: one is unknown.
    """
    options = MountOptions()
    for word in [word for text in texts for word in text.split(",") if word] + (["ro"] if read_only else []):
        name, equals, value = word.partition("=")
        if name == "allow_other" and not equals:
            options.allow_other = True
        elif name == "fsname" and value:
            options.source = value
        elif word in ("default_permissions", "auto_unmount", "defaults"):
            pass  # always so
        elif word in FLAGS:
            flag, sets = FLAGS[word]
            options.flags = options.flags | flag if sets else options.flags & ~flag
            if word not in _ROOTS_ALONE:
                options.words.append(word)
            elif os.geteuid() != 0:
                raise UsageError(f"-o {word} is for root alone")
        else:
            known = ", ".join(["allow_other", "default_permissions", "fsname=NAME", *FLAGS])
            raise UsageError(f"-o {word!r} is not known", f"known: {known}")
    return options


class HostMount:
    """A mount of ours, once `mount` was called.

    :param path: an existing directory.
    :ivar descriptor: of /dev/fuse: where the requests come from.
    :ivar path: the mount point without symbolic links.
    :raise UsageError: nothing can be mounted there.
    """

    descriptor = -1
    _identity: tuple[bytes, bytes] | None = None

    def __init__(self, path: str, options: MountOptions) -> None:
        self.path = os.path.realpath(path)
        check_mountpoint(path)
        self._options = options
        self._helped = os.geteuid() != 0
        self._before = _topmost(self.path)

    def mount(self, kept: int) -> None:
        """Mount.

        :param kept: a descriptor that a program which mounts for us has a copy of until it has ended.
        :raise PykrunError: it cannot be mounted; says why and what to do.
        """
        if self._helped:
            self.descriptor = _through_helper(self.path, self._options, kept)
        else:
            self.descriptor = _by_ourselves(self.path, self._options)
        self._identity = _topmost(self.path)
        if self._identity is None:  # somebody was quick; what cannot be found again could not be unmounted
            self.close()
            raise PykrunError(f"cannot mount on {self.path!r}: something else was mounted over it in the same moment")

    def identity(self) -> bytes:
        """Tell by what another process can `unmount_noted` it; empty when it is not mounted yet."""
        return b" ".join(self._identity or ())

    def unmount_noted(self, identity: bytes) -> None:
        """Unmount from a process that saw it before `mount`; what is new here is ours when nothing was noted."""
        number, _, device = identity.partition(b" ")
        found = (number, device) if identity else _topmost(self.path)
        if found != self._before:
            self._identity = found
            self.unmount()

    @property
    def present(self) -> bool:
        """It is still there, and nothing was mounted over it."""
        return self._identity is not None and _topmost(self.path) == self._identity

    def close(self) -> None:
        """Close our copy of the descriptor: the kernel ends the connection with the last one."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def read_ahead(self) -> None:
        """Let the kernel read ahead as far as one request reaches, where this process may say so: root.

        Once INIT was answered: the kernel sets it then, to 128 KiB at most. A fifth less CPU for large files.
        """
        if self._identity is None:
            return
        try:
            path = f"/sys/class/bdi/{self._identity[1].decode()}/read_ahead_kb"
            with open(path, "w", encoding="ascii") as setting:
                setting.write(str(wire.MAX_WRITE >> 10))
        except OSError:
            pass

    def unmount(self) -> None:
        """Unmount it if it is still there and nothing was mounted over it: orderly, or else lazily.

        May wait for the server, which writes what is left: to be called where that holds up nobody.
        """
        if not self.present:
            return
        if self._helped:
            _run_helper(["-u", "-q", "-z", "--", self.path])
            return
        try:
            linux.unmount(self.path)
        except OSError as error:
            if error.errno != EBUSY:
                return
            self._write_back()
            try:
                linux.unmount(self.path, linux.MNT_DETACH)
            except OSError:
                pass  # somebody else did

    def _write_back(self) -> None:
        """Have the kernel write what it holds back: whoever still has files open loses the rest."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                linux.system_call("syncfs", descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            pass  # the server is gone


def check_mountpoint(path: str) -> None:
    """Make sure that something can be mounted at `path`.

    :raise UsageError: it is not there, is no directory, or is a dead mount.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        hint = "make the directory first" if error.errno == ENOENT else ""
        if error.errno in (ENODEV, 107):  # ENOTCONN: a FUSE server died
            hint = f"there is a dead mount: umount {path}"
        raise UsageError(f"cannot mount on {path!r}: {error.strerror}", hint) from None
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"cannot mount on {path!r}: it is not a directory")


def _by_ourselves(path: str, options: MountOptions) -> int:
    try:
        return open_mount(path, flags=options.flags, source=options.source, options=OPTIONS)
    except OSError as error:
        if error.errno in (ENOENT, ENODEV) and not os.path.exists("/dev/fuse"):
            raise MissingError(
                "this host has no /dev/fuse", "modprobe fuse; a container needs --device /dev/fuse"
            ) from None
        hint = ""
        if error.errno in (EPERM, EACCES):
            hint = "root needs CAP_SYS_ADMIN here: containers have it only when they are given it"
        elif error.errno == EINVAL:
            hint = "the kernel refuses the options"
        raise PykrunError(f"cannot mount on {path!r}: {error.strerror}", hint) from None


def _through_helper(path: str, options: MountOptions, kept: int) -> int:
    """Let fusermount3 mount, and take the descriptor from it (the protocol of libfuse's `mount.c`)."""
    words = [*options.words, "default_permissions", "subtype=pykrun", "nosuid", "nodev"]
    # fusermount3 takes a backslash before a comma or a backslash in a value
    words.append("fsname=" + options.source.replace("\\", "\\\\").replace(",", "\\,"))
    if options.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        complaint = _run_helper(["-o", ",".join(words), "--", path], theirs, kept)
        ours.setblocking(False)
        try:
            _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            ancillary = []
    for _, _, content in ancillary:
        (descriptor,) = array.array("i", content)
        return int(descriptor)
    hint = ""
    if "/dev/fuse" in complaint:
        hint = "as root: chmod 0666 /dev/fuse, which is its mode where udev runs"
    raise PykrunError(f"cannot mount on {path!r}: {complaint or HELPER + ' gave no reason'}", hint)


def _run_helper(arguments: list[str], link: socket.socket | None = None, kept: int = -1) -> str:
    """Run fusermount3 to its end (bounded) and return the last line of its complaints, empty when it succeeded."""
    program = shutil.which(HELPER)
    if program is None:
        raise MissingError(f"who is not root mounts through {HELPER}, which is not here", "apt install fuse3")
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writing, 2)]
    if kept >= 0:
        actions.append((os.POSIX_SPAWN_DUP2, kept, kept))  # which lets it outlive exec
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    if link is not None:
        number = link.fileno()
        os.set_inheritable(number, True)
        environment["_FUSE_COMMFD"] = str(number)
    try:
        pid = os.posix_spawn(program, [HELPER, *arguments], environment, file_actions=actions, setsigmask=[])
    finally:
        os.close(writing)
    try:
        text = _read_to_end(reading)
    finally:
        os.close(reading)
    _, status = os.waitpid(pid, 0)
    lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
    return "" if status == 0 else lines[-1].removeprefix(f"{HELPER}: ") if lines else f"status {status}"


def _read_to_end(descriptor: int) -> bytes:
    content = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(content) < 65536 and poll.poll(_HELPER_SECONDS * 1000):
        chunk = os.read(descriptor, 4096)
        if not chunk:
            break
        content += chunk
    return content


def _topmost(path: str) -> tuple[bytes, bytes] | None:
    """Tell the number and the device of what is mounted at a path, None for nothing of ours.

    Source: proc(5), /proc/PID/mountinfo. Later lines lie over earlier ones.
    """
    wanted = os.fsencode(path)
    found = None
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            words = line.split()
            if _unescaped(words[4]) == wanted:
                found = (words[0], words[2]) if KIND.encode() in words[6:] else None
    return found


def _unescaped(text: bytes) -> bytes:
    for char in b" \t\n\\":
        text = text.replace(b"\\%03o" % char, b"%c" % char)
    return text
