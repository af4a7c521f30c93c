"""The verb `exec`: one more process in a container, through its supervisor's door.

With --detach a process stays that stands for the other one: under the pid of --pid-file, it hands signals and the size
of the terminal on, and ends with the exit code.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum
import os
import select
from errno import EINTR

from pykrun.errors import UsageError
from pykrun.oci.fields import Fields
from pykrun.oci.options import FLAG, MANY, VALUE, Given, Table
from pykrun.oci.process import CAPABILITIES, read_process
from pykrun.oci.signals import Heard
from pykrun.oci.state import CREATED, PAUSED, RUNNING, Container, write_atomically
from pykrun.oci.wire import knock
from pykrun.plain_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never

    from pykrun.vms import Client

OPTIONS: dict[str, tuple[str, Table]] = {
    "exec": (
        "[OPTION...] CONTAINER [COMMAND [ARG...]]",
        {
            "process,p": (VALUE, "file with a `process` of the specification, in place of a command"),
            "detach,d": (FLAG, "return when it runs; a process stays that ends with its exit code"),
            "pid-file": (VALUE, "file that gets the pid of that process"),
            "console-socket": (VALUE, "Unix socket that gets the terminal"),
            "tty,t": (FLAG, "give it a terminal"),
            "cwd": (VALUE, "working directory (the container's)"),
            "env,e": (MANY, "a variable, NAME=VALUE"),
            "user,u": (VALUE, "UID[:GID], or names of the container's (the container's own)"),
            "additional-gids,g": (MANY, "a further group"),
            "cap,c": (MANY, "a further capability"),
            "no-new-privs": (FLAG, "it may not get more rights"),
            "preserve-fds": (VALUE, "accepted: descriptors do not reach a VM"),
            "process-label": (VALUE, "accepted"),
            "apparmor": (VALUE, "accepted"),
            "cgroup": (MANY, "accepted"),
            "no-subreaper": (FLAG, "accepted"),
            "ignore-paused": (FLAG, "wait for a paused container to go on"),
        },
    )
}
FAILED = 255
"""The exit status when the command could not be run, as runc has it: 1 is an ordinary command's."""
_LOST = 128 + signal.SIGKILL


def exec(root: str, _settings: Given, options: Given) -> int:
    """Run a process in a container; the exit status is its own, or 0 with --detach."""
    if not options.rest:
        raise UsageError("a container ID is wanted")
    container = Container(root, options.rest[0])
    kept = container.read()
    status = kept["status"]
    if status == PAUSED and not options.flag("ignore-paused"):
        raise UsageError("cannot exec in a paused container", "--ignore-paused waits until it goes on")
    if status not in (RUNNING, PAUSED):
        why = "it was not started" if status == CREATED else f"it is {status}"
        raise UsageError("cannot exec in a container that is not running", why)
    if "process" not in kept["pykrun"]:
        raise UsageError("cannot exec in a container that another version of pykrun-oci created")
    process = _process(options, kept["pykrun"]["process"])
    console = options.value("console-socket")
    if process.get("terminal") and options.flag("detach") and not console:
        raise UsageError("a terminal and --detach need --console-socket, which gets the terminal")
    if console and not process.get("terminal"):
        raise UsageError("--console-socket needs a terminal (--tty, or process.terminal)")
    if process.get("terminal") and not console:
        return _attached(container, process)
    if options.flag("detach"):
        return _detached(container, process, console, options.value("pid-file"))
    if options.value("pid-file"):
        write_atomically(options.value("pid-file"), str(os.getpid()))
    return Stand(container, process, console).wait()


def _process(options: Given, own: dict[str, Any]) -> dict[str, Any]:
    """What is to run: the file's, or the command's words and options; what nobody says is the container's own.

    :param own: user and capabilities of the container's own process.
    """
    path, words = options.value("process"), options.rest[1:]
    if not path:
        return _from_words(options, words, own)
    try:
        with open(path, "rb") as file:
            process = read_process(Fields("process", loads(file.read())))
    except OSError as error:
        raise UsageError(f"--process {path!r}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--process {path!r}: {error}") from None
    document = process.document
    if options.flag("tty"):
        document["terminal"] = True
    if process.size is not None:
        document["consoleSize"] = {"height": process.size[0], "width": process.size[1]}
    return document


def _from_words(options: Given, words: list[str], own: dict[str, Any]) -> dict[str, Any]:
    if not words or not words[0]:
        raise UsageError("a command is wanted", "or --process with a file")
    for word in options.every("env"):
        if "=" not in word[1:]:
            raise UsageError(f"--env must be NAME=VALUE, not {word!r}")
    process: dict[str, Any] = {"args": words, "env": options.every("env"), "inherit_env": True}
    if options.value("cwd"):
        process["cwd"] = options.value("cwd")
    if options.value("user"):
        process["user"] = _user(options.value("user"), own["user"])
    groups = [_number("--additional-gids", word) for word in options.every("additional-gids")]
    if groups:
        user = process.get("user") or own["user"]
        process["user"] = {**user, "additionalGids": [*user.get("additionalGids", ()), *groups]}
    if options.flag("tty"):
        process["terminal"] = True
    if options.flag("no-new-privs"):
        process["noNewPrivileges"] = True
    further = [_capability(word) for word in options.every("cap")]
    sets = own.get("capabilities") if further else None
    if sets:
        process["capabilities"] = {name: [*words, *further] for name, words in sets.items()}
    return process


def _capability(word: str) -> str:
    name = "CAP_" + word.upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise UsageError(f"--cap: {word!r} is no capability")
    return name


def _user(text: str, own: dict[str, Any]) -> dict[str, Any]:
    """The user, by numbers with what they do not say of the container's own, as runc has it; names mean the guest's."""
    name, _, group = text.partition(":")
    if all(part.isascii() and part.isdigit() and len(part) < 11 for part in (name, group or "0")):
        return {**own, "uid": int(name), "gid": int(group) if group else own["gid"]}
    return {"username": text}


def _number(option: str, word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 11):
        raise UsageError(f"{option} must be a number, not {word!r}")
    return int(word)


def _attached(container: Container, process: dict[str, Any]) -> int:
    """With this process' own terminal, as `pykrun exec -t`."""
    from pykrun.cli.attached import Attached

    with Attached([0, 1, 2], terminal=True) as attached:
        if attached.window is not None:
            process["consoleSize"] = {"height": attached.window[0], "width": attached.window[1]}
        status = attached.run(knock(container.folder), process)
        could_not_run = not attached.has_started and status in (125, 126, 127)
        return FAILED if could_not_run else status


def _detached(container: Container, process: dict[str, Any], console: str, pid_file: str) -> int:
    """Fork who stands for it, and wait until it runs."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _stand(container, process, console, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    if said != b"+":
        os.waitpid(pid, 0)
        raise UsageError(said.decode(errors="replace") or "the process that stands for the command was ended")
    if pid_file:
        write_atomically(pid_file, str(pid))
    return 0


def _stand(container: Container, process: dict[str, Any], console: str, writing: int) -> Never:
    """The life of the process that stays."""
    code = 1
    try:
        os.setsid()
        stand = Stand(container, process, console)
        last = 3
        for descriptor in sorted((writing, *stand.descriptors())):  # the others are pipes of the caller's
            os.closerange(last, descriptor)
            last = descriptor + 1
        os.closerange(last, 1 << 30)
        os.write(writing, b"+")
        os.close(writing)
        code = stand.wait()
    except BaseException as error:
        os.write(writing, str(error).encode(errors="surrogateescape"))
    finally:
        os._exit(code)


class Stand:
    """Stands for a process in the container. When it returns from being made, that one runs.

    :param console: the socket that gets the terminal; empty for none.
    :raise UsageError: it could not be started.
    """

    def __init__(self, container: Container, process: dict[str, Any], console: str) -> None:
        self._terminal = bool(console)
        self._code: int | None = None
        self._heard = Heard()
        if console:
            self._open_console(console, process)
        self._client: Client = knock(container.folder)
        streams = [True, True, not console]
        self._client.ask("exec", (0, 1, 2)[: sum(streams)], process=process, streams=streams)
        message = self._client.receive()
        assert message is not None, "without a timeout"
        if message["event"] == "ended":
            raise UsageError(_why(process["args"][0], int(message["code"]), str(message["reason"])))
        if message["event"] != "started":
            raise UsageError("the container ended before the command ran")
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # the supervisor has them, and whoever waits for their end waits for the command's
            os.dup2(null, stream)
        os.close(null)

    def _open_console(self, console: str, process: dict[str, Any]) -> None:
        from pykrun.host.terminal import Terminal
        from pykrun.oci.console import open_console

        size = process.get("consoleSize")
        open_console(console, None if size is None else (size["height"], size["width"]))
        self._screen = Terminal(0, 1)
        self._screen.raw()
        window = self._screen.size()
        if window is not None:
            process["consoleSize"] = {"height": window[0], "width": window[1]}

    def descriptors(self) -> tuple[int, ...]:
        """What it needs of this process."""
        return self._client.fileno(), *self._heard.descriptors

    def wait(self) -> int:
        """Hand on signals until the command has ended; return its exit code."""
        poll = select.poll()
        poll.register(self._heard.fileno(), select.POLLIN)
        poll.register(self._client.fileno(), select.POLLIN)
        self._resize()
        while self._code is None:
            try:
                ready = [descriptor for descriptor, _ in poll.poll()]
            except OSError as error:
                if error.errno != EINTR:
                    raise
                continue
            if self._heard.fileno() in ready:
                self._hand_on(self._heard.take())
            if self._client.fileno() in ready:
                self._listen()
        return self._code

    def _listen(self) -> None:
        while self._code is None and (message := self._client.receive(0)) is not None:
            if message["event"] == "ended":
                self._code = int(message["code"])
            elif message["event"] == "gone":
                self._code = _LOST

    def _hand_on(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH and self._terminal:
                self._resize()
            else:
                self._client.ask("signal", number=number)

    def _resize(self) -> None:
        if self._terminal:
            window = self._window()
            if window is not None:
                self._client.ask("resize", rows=window[0], columns=window[1])

    def _window(self) -> tuple[int, int] | None:
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            columns, rows = os.get_terminal_size(terminal)
        finally:
            os.close(terminal)
        return rows, columns


def _why(program: str, code: int, reason: str) -> str:
    """In the words that callers look for."""
    if code == 127:
        where = "" if "/" in program else " in $PATH"
        return f"executable file `{program}` not found{where}: No such file or directory"
    if code == 126:
        return f"cannot execute `{program}`: permission denied" if "ermission" in reason else reason
    return reason or f"the command ended with {code} before it ran"
