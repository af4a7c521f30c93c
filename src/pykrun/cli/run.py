"""`pykrun run`: options in, a plan for the supervisor out."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence

from pykrun.cli import values
from pykrun.cli.environment import environment
from pykrun.cli.roots import add_root_arguments, compose
from pykrun.cli.workload import workload
from pykrun.errors import UsageError
from pykrun.host import limits
from pykrun.machine import DISK_FORMATS
from pykrun.start_data import StartData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.net import Publish
    from pykrun.supervisor import Outcome, Plan

EPILOG = """COMMAND must exist in the guest's root. Without one, /.krun_config.json in the root decides, then /bin/sh.
Standard output and error of the command are this command's, byte for byte and apart. Exit status: the command's;
128+n for a signal; 124 timeout, 125 set-up failed (with the reason), 126 not executable, 127 not found.

examples:
  pykrun run --root / --read-only -- uname -a
  pykrun run --image docker-archive:app.tar --publish 8080:80
  pykrun run --root ./debian --writable memory -- make install
  pykrun run --root ./debian --volume ./src:/src:ro -- make -C /src
  pykrun run --file /hello=./hello-static -- /hello world
  pykrun run --file /bin/sh=/bin/busybox --secret /key=./key.pem -- /bin/sh -c 'cat /key'
  pykrun run --publish 8080:80 --file /server=./server -- /server
  pykrun run --disk data.img --disk tools.img:ro --file /prog=./prog -- /prog
  pykrun run --config vm.toml --memory 512
  pykrun run --disk debian.img --root-disk /dev/vda1 -- /bin/bash
  pykrun run --engine qemu --cpus 2 --text /etc/motd=hi --file /prog=./prog -- /prog
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options (the contract of the command line)."""
    parser.usage = "pykrun run [OPTION...] [--] COMMAND [ARG...]"
    root = parser.add_argument_group("root file system")
    add_root_arguments(root)
    root.add_argument(
        "--tmpfs",
        action="append",
        default=[],
        metavar="GUEST[:OPTIONS]",
        help="an empty file system in the guest's memory: /tmp, /tmp:size=64m,mode=700",
    )
    disks = parser.add_argument_group("block devices")
    disks.add_argument(
        "--disk",
        action=_InOrder,
        dest="disks",
        default=[],
        metavar="IMAGE[:ro]",
        help="a file or block device of the host, in the guest /dev/vda, vdb, ... in this order",
    )
    disks.add_argument(
        "--disk-format",
        action=_InOrder,
        dest="disks",
        choices=DISK_FORMATS,
        help="of the --disk options that follow; after the last of them: of those before it (raw)",
    )
    disks.add_argument("--root-disk", metavar="DEVICE", help="boot into that disk or partition of the guest: vda, vda2")
    disks.add_argument("--root-fstype", metavar="TYPE", help="its file system (what the guest finds there)")
    disks.add_argument("--root-options", metavar="OPTIONS", help="mount options: ro,noatime")
    work = parser.add_argument_group("the command and its surroundings")
    work.add_argument("-e", "--env", action="append", default=[], metavar="K=V", help="a variable; K alone copies ours")
    work.add_argument("--env-file", action="append", default=[], metavar="FILE", help="lines of K=V")
    work.add_argument("-w", "--workdir", metavar="DIR", help="working directory in the guest")
    work.add_argument("-u", "--user", metavar="UID[:GID]", help="run as that user (0:0)")
    work.add_argument("--hostname", metavar="NAME", help="the guest's host name (localhost)")
    work.add_argument("--rlimit", action="append", default=[], metavar="NAME=CUR:MAX", help="a resource limit")
    work.add_argument("-t", "--tty", action="store_true", default=None, help="give it a terminal")
    work.add_argument("-T", "--no-tty", dest="tty", action="store_false", help="give it pipes")
    _add_machine(parser.add_argument_group("the machine"))
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="a TOML file with options by their names in Python; those of the command line win",
    )
    parser.set_defaults(command=[])


def _add_machine(vm: argparse._ArgumentGroup) -> None:
    """Declare what the machine is made of and how it is run."""
    vm.add_argument("--engine", choices=("auto", "uml", "qemu"), default="auto", help="what runs the VM (auto)")
    vm.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="how QEMU runs it (auto)")
    vm.add_argument(
        "--arch", metavar="A", help="what the guest is: x86_64, aarch64 (the kernel's, else this machine's)"
    )
    vm.add_argument("--kernel", metavar="FILE", help="guest kernel (the engine's own)")
    vm.add_argument("--modules", metavar="DIR", help="its modules: the folder that holds modules.dep")
    vm.add_argument("--kernel-arg", action="append", default=[], metavar="WORD", help="a word for its command line")
    vm.add_argument("--cpus", metavar="N", help="virtual CPUs (1)")
    vm.add_argument("--memory", metavar="MIB", default="256", help="memory in MiB (256)")
    vm.add_argument("--net", choices=("none", "user"), help="user: a network through this host (none)")
    vm.add_argument(
        "--publish",
        action="append",
        default=[],
        metavar="[ADDR:]HOST:GUEST[/udp]",
        help="a port here that leads to one of the guest, on 127.0.0.1 unless ADDR says otherwise; implies --net user",
    )
    vm.add_argument("--name", metavar="NAME", help="what `pykrun ps` and `pykrun exec` call it (one is made up)")
    vm.add_argument("--timeout", metavar="SECONDS", help="end the VM after that time, exit 124")
    vm.add_argument("--sandbox", choices=("auto", "require"), default="auto", help="require: or refuse to run (auto)")
    vm.add_argument("--boot-log", metavar="FILE", help="write the kernel's console there")
    vm.add_argument("-v", "--verbose", action="store_true", help="say on standard error what takes how long")


class _InOrder(argparse.Action):
    """Appends (option, value): these options' meaning depends on their order among each other."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        value: str | Sequence[object] | None,
        option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (option, value)])


def split_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split our options from the command at `--` or at the first word that is no option.

    argparse would drop a `--` that belongs to the command, and read the command's options as ours.

    :raise UsageError: an option has no value.
    """
    from pykrun.cli.dispatch import value_missing

    actions = parser._option_string_actions
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return _with_files(list(words[:index]), list(words[index + 1 :]))
        if not word.startswith("-") or word == "-":
            break
        action = actions.get(word)
        index += 1
        if action is not None and action.nargs is None:
            if list(words[index : index + 1]) == ["--"]:
                raise value_missing(action)
            index += 1
    return _with_files(list(words[:index]), list(words[index:]))


def _with_files(options: list[str], command: list[str]) -> tuple[list[str], list[str]]:
    if any(word.startswith("--config") for word in options):
        return expand(options, command)
    return options, command


def expand(options: list[str], command: list[str]) -> tuple[list[str], list[str]]:
    """Put what the files of `--config` say before the other options, which so win.

    :raise UsageError: a file cannot be read, or something in it cannot be.
    """
    from pykrun.config import read

    checks = {
        "hostname": values.hostname,
        "name": values.vm_name,
        "rlimits": values.rlimit,
        "kernel_args": _kernel_word,
    }
    said: list[str] = []
    default: list[str] = []
    for index, word in enumerate(options):
        if word == "--config" and index + 1 < len(options):
            described = read(options[index + 1], checks)
        elif word.startswith("--config="):
            described = read(word.removeprefix("--config="), checks)
        else:
            continue
        said += described.options
        default = described.command or default
    return said + options, command or default


def run(arguments: argparse.Namespace) -> int:
    """Run the VM; return the exit status of the workload, or 124 to 127 of ours."""
    limits.allow_descriptors()
    limits.forbid_core_file()
    plan = _plan(arguments)
    from pykrun.supervisor import run_plan

    outcome = run_plan(plan)
    _tell(plan, outcome, verbose=arguments.verbose)
    return outcome.exit_code


def _plan(arguments: argparse.Namespace) -> Plan:
    from pykrun.cli.streams import standard_stream
    from pykrun.supervisor import Plan

    command: list[str] = arguments.command
    if command and not command[0]:
        raise UsageError("the command is empty")
    terminal = _wants_terminal(arguments.tty)
    variables = environment(arguments.env, arguments.env_file)
    if terminal and "TERM" in os.environ:
        variables.setdefault("TERM", os.environ["TERM"])
    tmpfs = [values.tmpfs(text) for text in arguments.tmpfs]
    composed = compose(arguments)
    work = workload(arguments, composed, command, variables)
    start = StartData(
        program=work.program,
        arguments=work.arguments,
        environment=work.environment,
        workdir=work.workdir,
        hostname=None if arguments.hostname is None else values.hostname(arguments.hostname),
        user=work.user,
        rlimits=[values.rlimit(text) for text in arguments.rlimit],
        terminal=terminal,
        root_device=values.root_disk(arguments.root_disk, arguments.root_fstype, arguments.root_options),
        root_fstype=values.file_system(arguments.root_fstype),
        root_options=arguments.root_options,
        tmpfs=tmpfs,
        layer=composed.layer,
    )
    for where, _ in tmpfs:
        composed.root.directory(where)
    publish = _publish(arguments)
    return Plan(
        root=composed.root,
        share=composed.share,
        volumes=composed.volumes,
        holds=tuple(composed.holds),
        stop_signal=signal.SIGTERM if composed.image is None else composed.image.config.stop_signal,
        start=start,
        disks=values.disks(arguments.disks),
        engine=arguments.engine,
        accel=arguments.accel,
        kernel=arguments.kernel,
        modules=arguments.modules,
        arch=arguments.arch,
        kernel_args=tuple(_kernel_word(word) for word in arguments.kernel_arg),
        cpus=None if arguments.cpus is None else values.positive("--cpus", arguments.cpus, largest=255),
        memory_mib=values.positive("--memory", arguments.memory, unit=" of MiB", largest=1 << 20),
        network=arguments.net == "user" or bool(publish),
        publish=publish,
        timeout=None if arguments.timeout is None else values.seconds("--timeout", arguments.timeout),
        sandbox=arguments.sandbox,
        boot_log=arguments.boot_log,
        name=values.vm_name(arguments.name),
        stdin=standard_stream(0),
        stdout=standard_stream(1),
        stderr=standard_stream(2),
    )


def _wants_terminal(asked: bool | None) -> bool:
    from pykrun.cli.streams import standard_stream

    is_terminal = standard_stream(0) is not None and standard_stream(1) is not None and os.isatty(0) and os.isatty(1)
    return is_terminal if asked is None else asked


def _publish(arguments: argparse.Namespace) -> tuple[Publish, ...]:
    if not arguments.publish:
        return ()
    if arguments.net == "none":
        raise UsageError("--publish needs a network", "leave out --net none: --publish implies --net user")
    from pykrun.net import parse

    return tuple(parse(text) for text in arguments.publish)


def _kernel_word(word: str) -> str:
    if not word.isascii() or not word.isprintable() or not word or any(char.isspace() for char in word) or '"' in word:
        raise UsageError(f"--kernel-arg wants one word of printable ASCII without blanks or quotes, not {word!r}")
    if word == "--":
        raise UsageError("--kernel-arg cannot be --", "give the command's arguments after the command")
    return word


LAST_WORDS = 1.0
"""Seconds that the reader of standard error has for our own lines at the end."""
WARNING = 1
"""Levels of the guest's log up to this one are shown without -v."""

PHASES = {
    "prepared": "engine, kernel and init found",
    "launched": "engine forked",
    "served": "file system and console served",
    "init": "kernel booted, init up",
    "started": "workload executed",
    "output": "first output",
    "exited": "workload ended",
    "done": "guest synced and done",
    "ended": "engine gone",
}


def _tell(plan: Plan, outcome: Outcome, *, verbose: bool) -> None:
    """What went wrong, and with -v how long each phase took; on standard error, where it was open."""
    lines = [f"pykrun: {outcome.reason}"] if outcome.reason else []
    lines += [f"  | {line}" for line in outcome.console]
    lines += [f"pykrun: {text}" for text in outcome.warnings]
    lines += [f"pykrun: guest: {text}" for level, text in outcome.log if level <= WARNING or verbose]
    if verbose:
        lines += _timing(outcome)
    if lines and plan.stderr is not None:
        from pykrun.supervisor.streams import write_bounded

        text = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
        write_bounded(plan.stderr, text, LAST_WORDS)


def _timing(outcome: Outcome) -> list[str]:
    """One line a phase: its own milliseconds, the sum so far, the phase's name, what was reached."""
    lines = [f"pykrun: engine {outcome.engine}, isolation {outcome.isolation}"]
    if outcome.share_isolation:
        lines.append(f"pykrun: shared directories, isolation {outcome.share_isolation}")
    if outcome.disk_isolation:
        lines.append(f"pykrun: disks, isolation {outcome.disk_isolation}")
    start = last = outcome.phases["start"]
    for name, reached in sorted(outcome.phases.items(), key=lambda item: item[1])[1:]:
        step, total = (reached - last) * 1000, (reached - start) * 1000
        lines.append(f"pykrun: {step:8.1f} ms {total:8.1f} ms  {name:<9} {PHASES.get(name, '')}")
        last = reached
    return lines
