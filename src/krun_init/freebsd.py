"""PID 1 of FreeBSD: the boot order, top to bottom, and the one place that decides the exit code.

It was never booted by its authors, see docs/freebsd.md.
"""

from __future__ import annotations

import posix
import sys

from krun_init import environment, refusal, workload
from krun_init import freebsd_config as config
from krun_init import freebsd_console as console
from krun_init import freebsd_ending as ending
from krun_init import freebsd_kenv as kenv
from krun_init import freebsd_launch as launch
from krun_init import freebsd_network as network
from krun_init.errors import SETUP_FAILED, Ending, InitError, describe
from krun_init.freebsd_system import System
from krun_init.freebsd_watch import HELD, Watch
from krun_init.log import Log, to_console
from krun_init.start import DEFAULT_GRACE_MS, Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from krun_init.workload import Workload

_SINGLE_USER = ["-s"]
"""The only word that the kernel gives its init, when it was booted for a single user (init_main.c); not the host's."""


def main(system: System | None = None) -> int:
    """What the blob calls. As the kernel's init it never returns; otherwise it refuses, and returns the exit code."""
    system = system or System()
    if system.getpid() == 1:
        Guest(list(sys.argv), dict(posix.environ), system).run()
    return refusal.answer(sys.argv[1:])


class Guest:
    """The machine that init sets up.

    :param argv: as the kernel gave it: the program, and perhaps `-s`.
    :param environ: as the kernel gave it: empty.
    """

    def __init__(self, argv: list[str], environ: dict[bytes, bytes], system: System) -> None:
        self.argv = argv
        self.environ = environ
        self.system = system
        self.log = Log()

    def run(self) -> NoReturn:
        """Boot, run the workload, end: whatever happens, there is a code and a reason on the console."""
        try:
            how = self.boot()
        except InitError as error:
            how = Ending(SETUP_FAILED, 0, str(error))
        except BaseException as error:
            how = Ending(SETUP_FAILED, 0, describe(error))
        if how.reason:
            to_console(how.reason)
        ending.end(how, self.system, self.log)

    def boot(self) -> Ending:
        """Everything, in order. Each step raises `InitError` if the boot cannot go on."""
        system, log = self.system, self.log
        console.take(system)
        words, variables = environment.split({**self.environ, **kenv.variables(system)})
        rest = self.choose_words(kenv.words(system))
        console.begin_session(system)
        network.up(system)
        conf = config.read(system, words, log)
        none = Start()  # start data is of our own hosts, which have no FreeBSD
        variables = environment.compose(words, variables, none, conf)
        environment.set_hostname(system.sethostname, variables, none, conf)
        workload.enter(system.chdir, words.get("KRUN_WORKDIR") or conf.workdir)
        program = workload.compose(words, rest, variables, none, conf, log)
        if words.get("KRUN_INIT_PID1", "").startswith("1"):
            return launch.become(system, program)
        return self.run_workload(program)

    def choose_words(self, words: list[str] | None) -> list[str]:
        """The workload's words: the host's in the kernel's environment, else the kernel's own."""
        if words is not None:
            return words
        return [] if self.argv[1:] == _SINGLE_USER else self.argv[1:]

    def run_workload(self, program: Workload) -> Ending:
        """Run it until it has ended, and have the console again."""
        self.system.hold_signals(HELD)
        pid = launch.spawn(self.system, program, self.log)
        how = Watch(self.system, pid, DEFAULT_GRACE_MS / 1000).run()
        console.take_back(self.system)
        return how
