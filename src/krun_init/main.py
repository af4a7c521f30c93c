"""PID 1 of Linux: the boot order, top to bottom, and the one place that decides the exit code."""

from __future__ import annotations

import posix
import sys

from krun_init import (
    _linux,
    accounts,
    blockroot,
    config,
    ending,
    entropy,
    environment,
    hold,
    layer,
    mount_list,
    mounts,
    network,
    ports,
    refusal,
    session,
    stage_one,
    start,
    streams,
    switches,
    timesync,
    watch,
    workload,
)
from krun_init.control import Control
from krun_init.errors import SETUP_FAILED, Ending, InitError, describe
from krun_init.log import Log, to_console
from krun_init.places import Places
from krun_init.trace import Trace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(places: Places | None = None) -> int:
    """What the blob calls. As the kernel's init it never returns; otherwise it refuses, and returns the exit code."""
    places = places or Places()
    if posix.getpid() == 1 and places.started_by_kernel():
        Guest(list(sys.argv), dict(posix.environ), places).run()
    return refusal.answer(sys.argv[1:])


class Guest:
    """The machine that init sets up.

    :param argv: as the kernel gave it: the program, then the words after `--`.
    :param environ: as the kernel gave it: HOME, TERM, and the words of its command line that it did not know.
    """

    def __init__(self, argv: list[str], environ: dict[bytes, bytes], places: Places) -> None:
        self.argv = argv
        self.environ = environ
        self.places = places
        self.words, self.kernel_variables = environment.split(environ)
        self.trace = Trace("KRUN_INIT_TRACE" in self.words)
        self.log = Log()
        self.signals = -1
        self.first_root = blockroot.FirstRoot()

    def run(self) -> NoReturn:
        """Boot, run the workload, end: whatever happens, the host hears of a code and a reason."""
        try:
            how = self.boot()
        except InitError as error:
            how = Ending(SETUP_FAILED, 0, str(error))
        except BaseException as error:
            how = Ending(SETUP_FAILED, 0, describe(error))
        self.trace.report(self.log)  # of a boot that did not get that far
        if how.reason:
            self._explain(how.reason)
        ending.end(how, self.log.control, self.places, self.log, self.first_root)

    def boot(self) -> Ending:
        """Everything, in order. Each step raises `InitError` if the boot cannot go on."""
        run, places, log = self.trace.run, self.places, self.log
        run(session.standard_descriptors, places)
        self.signals = run(_linux.signalfd, watch.REPORTED)
        run(stage_one.enter_root, self.argv, self.environ, places, log, self.trace)
        if switches.TEE_ROOT:
            run(blockroot.enter_confidential, self.first_root, places, log)
        run(mounts.standard, places.devices, log)
        data = run(start.read, places.start)
        found = run(ports.find, places, data.ports)
        run(self.open_control, found)  # as early as can be: from here on the host hears of what fails
        if not switches.TEE_ROOT:  # there the host has no say in it
            run(blockroot.enter, self.words, data.root, self.first_root, places, log)
            run(layer.enter, data.layer, self.first_root, places, log)
        run(mounts.share_root)
        run(entropy.credit, data.seed, places.random, log)
        run(session.begin, not data.terminal and data.streams != "relay")
        net = run(network.up, self.words, data, places, log)
        conf = run(config.read, self.words.get("KRUN_CONFIG", places.config), log)
        run(mounts.volumes, data.volumes, places)
        run(mounts.tmpfs, data.tmpfs + conf.tmpfs, places)
        run(mount_list.make, data.mounts, places, log)
        variables = run(environment.compose, self.words, self.kernel_variables, data, conf)
        accounts.fill_home(variables, data.user or conf.user)
        run(environment.set_hostname, _linux.sethostname, variables, data, conf, net.hostname)
        run(workload.enter, posix.chdir, data.workdir or self.words.get("KRUN_WORKDIR") or conf.workdir)
        program = run(workload.compose, self.words, self.argv[1:], variables, data, conf, log)
        pid1 = data.pid1 or self.words.get("KRUN_INIT_PID1", "").startswith("1")
        ends = run(streams.prepare, data, conf, program.user, found, places, pid1)
        clock = run(timesync.start, found, places, log, pid1) if switches.TIMESYNC else None
        if pid1:
            self.trace.report(log)
            return streams.become(program, ends, log.control, clock, net.keeper)
        if data.hold and (stopped := run(hold.wait, log.control, clock)) is not None:
            return stopped
        pid = run(streams.start, program, ends)
        self.trace.report(log)
        grace = data.grace_ms / 1000
        return streams.watch(pid, program, ends, self.signals, log, grace, clock, net.keeper)

    def open_control(self, found: dict[str, str]) -> None:
        """Greet the host, if it has a control port."""
        device = found.get(ports.CONTROL)
        if device is not None:
            self.log.control = Control(ports.open_port(self.places, device, posix.O_RDWR | posix.O_NONBLOCK))

    def _explain(self, reason: str) -> None:
        """The reason also goes to the console: without a control port that is all the host has."""
        if self.log.control is None:
            try:
                self.open_control(ports.find(self.places, []))
            except InitError:
                pass
        if self.log.control is None:
            to_console(reason)
