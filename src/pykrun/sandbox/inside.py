"""The child's half of the sandbox: from a fresh fork of the supervisor to the program's execve.

Two processes come out of it. The *keeper* is what the supervisor forked: process 1 of the pid namespace where there
is one. It forks the *program*, waits for it, and tells the supervisor how it ended. It must be a process of its own:
an engine that is process 1 itself would be immune to its own SIGABRT, with which User Mode Linux ends a panic.
When the keeper dies, the kernel ends the whole namespace; without one the keeper ends what it started.

Everything here runs in a copy of the supervisor with all signals blocked. Nothing may return or raise out of `run`,
and nothing may be imported: by then the file system may be gone.

Lines that go up the report pipe: `D<path>` a temporary folder was made, `I<level> <note>` the program is about to be
executed, `E<text>` it will not be, `X<status>` its wait status.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat

from pykrun.host import linux
from pykrun.sandbox import filter as system_call_filter
from pykrun.sandbox.child import (
    MOUNT_POINT,
    NOT_ALLOWED,
    PRIVATE_NAMESPACES,
    Refused,
    choose_identity,
    close_all_but,
    die_with,
    drop_privileges,
    enter_root,
    ready,
    say,
)
from pykrun.sandbox.jail import FILES, REDUCED, WORK, Jail
from pykrun.sandbox.libraries import search_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_RESERVED = ("dev", "files", "proc", "tmp", "room")  # names that mean something else in the jail than outside


def run(
    jail: Jail,
    *,
    level: str,
    required: bool,
    supervisor: int,
    leash: int,
    report: int,
    caller: tuple[int, int],
    inherited: tuple[int, ...],
) -> NoReturn:
    """Become the keeper of a jail; never returns.

    :param level: what the clone made possible.
    :param required: fail instead of going on with less isolation.
    :param supervisor: pidfd of the supervisor.
    :param leash: read end of a pipe; a byte or its end means: end everything.
    :param report: write end of the report pipe.
    :param caller: user and group id of the supervisor; in a new user namespace they cannot be asked for.
    :param inherited: the supervisor's ends of both pipes, to be closed.
    """
    for descriptor in inherited:
        os.close(descriptor)
    keeper = _Keeper(jail, level, required, supervisor, leash, report, caller)
    try:
        keeper.run()
    except BaseException as error:  # the copy of the supervisor must not run on
        text = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        say(keeper.report, "E" + text)
    if keeper.folder and not keeper.is_program:
        remove_tree(keeper.folder)
    os._exit(125)


class _Keeper:
    def __init__(
        self, jail: Jail, level: str, required: bool, supervisor: int, leash: int, report: int, caller: tuple[int, int]
    ) -> None:
        self.jail = jail
        self.level = level
        self.note = ""
        self.required = required
        self.supervisor = supervisor
        self.leash = leash
        self.report = report
        self.caller = caller
        self.program = str(jail.program)  # where the program is, in the root that it gets
        self.folder = ""  # the temporary folder of the reduced level
        self.names: list[tuple[str, str]] = []  # what to write in the arguments in place of FILES and WORK names
        self.bound: list[str] = []  # mount points below the new root
        self.is_program = False  # in the second process, from its fork to its execve
        self.passed: list[int] = []  # further descriptors the program needs, after the jail's own

    def run(self) -> NoReturn:
        self._live_and_die_with_supervisor()
        self.identity = choose_identity(self.level, self.caller, self.jail.identity)
        if self.level != REDUCED:
            try:
                self._private_root()
            except OSError as error:
                if self.required or error.errno not in NOT_ALLOWED:
                    raise Refused(f"{error.filename or 'mount'}: {error.strerror}") from None
                self.level, self.note = REDUCED, f"{error.filename or 'mount'}: {error.strerror}"
                linux.set_parent_death_signal(0)
        if self.level == REDUCED:
            self._temporary_folder()
        drop_privileges(self.identity)
        self._live_and_die_with_supervisor()  # the kernel forgot it when the ids changed
        self._start_program()
        self._keep()

    def _live_and_die_with_supervisor(self) -> None:
        # At the reduced level the keeper has to survive for a moment, to end and remove what it started.
        if self.level != REDUCED:
            die_with(self.supervisor)
        elif ready((self.supervisor,)):
            raise Refused("the supervisor is gone")

    # The file system

    def _private_root(self) -> None:
        linux.unshare(PRIVATE_NAMESPACES)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        root = MOUNT_POINT
        nodev = 0 if self.jail.devices else linux.MS_NODEV
        linux.mount("tmpfs", root, "tmpfs", linux.MS_NOSUID | nodev, "size=1m,nr_inodes=4k,mode=755")
        made: set[str] = {root}
        if self.program.split("/")[1] in _RESERVED:
            self.program = f"{FILES}program"
        self._bind(str(self.jail.program), root + self.program, made)
        for path in self.jail.libraries:
            self._bind(path, root + path, made)
        for name in ("null", "zero", "urandom"):
            self._bind(f"/dev/{name}", f"{root}/dev/{name}", made)
        for name in self.jail.devices:
            self._device(f"/dev/{name}", f"{root}/dev/{name}", made)
        for name, file in self.jail.files.items():
            self._bind(str(file), root + FILES + name, made)
        for folder in ("/tmp", WORK.rstrip("/")):
            os.makedirs(root + folder, 0o755, exist_ok=True)
        for name in self.jail.images:
            _make_place(root + FILES + name, made)
        _make_read_only(root, self.bound)
        for name, (path, descriptor) in self.jail.images.items():
            linux.mount(path, root + FILES + name, None, linux.MS_BIND)
            if not os.path.samestat(os.stat(root + FILES + name), os.fstat(descriptor)):
                raise Refused(f"{path} has become another file")
        work = root + WORK
        self._mount_work(work.rstrip("/"))
        self._furnish(work)
        enter_root(root)

    def _bind(self, source: str, target: str, made: set[str]) -> None:
        """Make `source` appear at `target`, which is created as what `source` is; `made` are folders that exist."""
        _make_place(target, made, is_folder=stat.S_ISDIR(os.stat(source).st_mode))
        linux.mount(source, target, None, linux.MS_BIND)
        self.bound.append(target)

    def _mount_work(self, work: str) -> None:
        """The writable place; in huge pages where the kernel has them: a fifth of User Mode Linux' boot, for 6 MiB."""
        options = f"size={self.jail.room},nr_inodes=1k,mode=700"
        try:
            linux.mount("tmpfs", work, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options + ",huge=within_size")
        except OSError:
            linux.mount("tmpfs", work, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)

    def _device(self, source: str, target: str, made: set[str]) -> None:
        """A device that the program may open under the id it will have: a node of its own where that can be made."""
        if self.identity is not None:
            node = os.stat(source).st_rdev
            try:
                os.mknod(target, stat.S_IFCHR | 0o600, node)
            except PermissionError:  # a container's root
                pass
            else:
                os.chown(target, *self.identity)
                return
        self._bind(source, target, made)

    def _temporary_folder(self) -> None:
        """A private folder on the host in place of a root of one's own; files are passed as descriptors."""
        import shutil  # noqa: F401  # for remove_tree: without rights the library may be out of reach

        for base in ("/dev/shm", os.environ.get("TMPDIR", "/tmp"), "/tmp", "/var/tmp"):
            if _has_room(base, self.jail.room):
                break
        else:
            raise Refused(
                f"no folder with {self.jail.room >> 20} MiB of room that programs can be mapped from: "
                "/dev/shm, TMPDIR, /tmp and /var/tmp are too small or mounted noexec"
            )
        self.folder = f"{base}/pykrun-{os.getpid()}-{os.urandom(8).hex()}/"
        say(self.report, "D" + self.folder)
        os.mkdir(self.folder, 0o700)
        self._furnish(self.folder)
        self.names.append((WORK, self.folder))
        for name, path in self.jail.files.items():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            number = len(self.jail.descriptors) + len(self.passed)
            self.passed.append(descriptor)
            self.names.append((FILES + name, f"/proc/self/fd/{number}"))
        for name, (image, _descriptor) in self.jail.images.items():
            os.symlink(image, self.folder + name)
            self.names.append((FILES + name, self.folder + name))

    def _furnish(self, work: str) -> None:
        """Folders and sockets of the writable place, owned by who will use them."""
        owned = [work]
        for name in self.jail.folders:
            os.mkdir(work + name, 0o700)
            owned.append(work + name)
        for name, listener in self.jail.listeners.items():
            # Relative: a socket's path has 107 bytes at most, and its binder may stand in front of it.
            os.chdir(work)
            listener.bind(name)
            listener.listen(1)
            owned.append(work + name)
        for name, client in self.jail.connected.items():
            os.chdir(work)
            client.connect(name)
        if self.identity is not None:
            for path in owned:
                os.chown(path, *self.identity)

    # The program

    def _start_program(self) -> None:
        if self.level == REDUCED:
            linux.set_child_subreaper()
        keeper = os.pidfd_open(os.getpid())
        self.program_pid, self.program_end = linux.clone(0)
        if self.program_pid == 0:
            self._execute(keeper)
        os.close(keeper)

    def _execute(self, keeper: int) -> NoReturn:
        self.is_program = True
        os.setsid()
        linux.set_parent_death_signal(signal.SIGKILL)
        if ready((keeper,)):
            os._exit(125)
        arguments = [self._argument(text) for text in self.jail.arguments]
        work = self._argument(WORK)
        environment = {"PATH": "/usr/bin:/bin", "HOME": work, "TMPDIR": work, "LC_ALL": "C"}
        if self.level != REDUCED and self.jail.libraries:  # a jail has no ld.so.cache
            environment["LD_LIBRARY_PATH"] = search_path(self.jail.libraries)
        report = self._take_places()
        if not self.jail.randomize:
            linux.no_address_randomization()
        say(report, f"I{self.level} {self.note}")
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):  # two are the C library's
                signal.signal(number, signal.SIG_DFL)
        linux.install_filter(system_call_filter.assemble(self.jail.denied))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(self.program, arguments, environment)

    def _argument(self, text: str) -> str:
        for name, place in self.names:
            text = text.replace(name, place)
        return text

    def _take_places(self) -> int:
        """Put the program's descriptors at 0, 1, 2, ...; close all others but the report pipe, and return that."""
        wanted = (*self.jail.descriptors, *self.passed)
        close_all_but({*wanted, self.report})  # room for the copies, however few descriptors the host allows
        spare = len(wanted) + 1  # copies wait above all places, so that none is overwritten before it has moved
        parked = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, spare) for descriptor in wanted]
        self.report = report = fcntl.fcntl(self.report, fcntl.F_DUPFD_CLOEXEC, spare)
        for place, descriptor in enumerate(parked):
            os.dup2(descriptor, place)
        os.dup2(report, len(parked), inheritable=False)
        self.report = len(parked)  # where run() looks when this fails
        os.closerange(len(parked) + 1, 1 << 30)
        return self.report

    # The keeper's life

    def _keep(self) -> NoReturn:
        pid = self.program_pid
        close_all_but({self.supervisor, self.leash, self.report, self.program_end})
        ready((self.supervisor, self.leash, self.program_end), None)
        if self.level == REDUCED:
            status = self._end_family(pid)
        else:
            status = os.waitpid(pid, 0)[1] if ready((self.program_end,)) else signal.SIGKILL
        say(self.report, f"X{status}")
        os._exit(0)

    def _end_family(self, pid: int) -> int:
        """Kill the program's process group and every descendant that shows up, then remove the folder."""
        status = None
        while True:
            if not ready((self.program_end,)):
                _kill(pid)
            _kill(-pid)
            try:
                ended, code = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            if ended == pid:
                status = code
            for child in _children():
                _kill(child)
        remove_tree(self.folder)
        return signal.SIGKILL if status is None else status


def _make_place(target: str, made: set[str], *, is_folder: bool = False) -> None:
    """Make an empty file or folder to mount something on, and the folders above it that are not in `made`."""
    parent = target if is_folder else os.path.dirname(target)
    if parent not in made:
        os.makedirs(parent, 0o755, exist_ok=True)
        made.add(parent)
    if not is_folder:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _make_read_only(root: str, bound: list[str]) -> None:
    """Make a mount and those below it read-only and nosuid, and keep what else they are."""
    try:
        linux.mount_set_attributes(root, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # before Linux 5.12
            raise
        for target in (*bound, root):
            linux.make_read_only(target)


def _has_room(folder: str, room: int) -> bool:
    try:
        info = os.statvfs(folder)
    except OSError:
        return False
    usable = not info.f_flag & os.ST_NOEXEC and os.access(folder, os.W_OK | os.X_OK)
    return usable and info.f_bavail * info.f_frsize >= room


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def _children() -> list[int]:
    try:
        with open("/proc/thread-self/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def remove_tree(folder: str) -> None:
    """Remove a folder without following anything: it was the program's to fill."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
