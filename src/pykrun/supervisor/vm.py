"""One VM: started early, served from this thread, ended completely."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import ExitStack
from functools import partial

from pykrun import engine as engines
from pykrun.errors import PeerError, UsageError
from pykrun.host.terminal import Escape, Terminal
from pykrun.loop import IN, Loop
from pykrun.record import replace
from pykrun.request import Outcome
from pykrun.root import INIT_PATH
from pykrun.signals import FORWARDED, HeldUp, Signals
from pykrun.supervisor.acknowledge import Acknowledgement
from pykrun.supervisor.build import build
from pykrun.supervisor.console import BootLog, GuestLog, printable
from pykrun.supervisor.control import Control, Events, Exit, bounded
from pykrun.supervisor.needs import missing_interpreter, with_what_there_is
from pykrun.supervisor.plan import Plan
from pykrun.supervisor.remote import Remote, Remotes
from pykrun.supervisor.streams import FdSink, FdSource
from pykrun.supervisor.verdict import SET_UP_FAILED, TIMED_OUT, Evidence, judge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.engine import Running
    from pykrun.machine import Machine, Network
    from pykrun.sandbox import Ended, Wish
    from pykrun.start_data import StartData
    from pykrun.supervisor.commands import Commands
    from pykrun.supervisor.devices import Devices
    from pykrun.supervisor.disks import DiskServers
    from pykrun.supervisor.listing import Listing
    from pykrun.supervisor.network import GuestNetwork
    from pykrun.supervisor.shares import ShareServers
    from pykrun.supervisor.wiring import Ends

CONTROL, STDIN, STDOUT, STDERR = "krun-control", "krun-stdin", "krun-stdout", "krun-stderr"
STREAM_PORTS = (STDIN, STDOUT, STDERR)
TIME = "krun-timesync"
NOT_FOUND = 127
GRACE = 10.0
"""Seconds that the workload has between TERM and KILL, when the plan does not say."""
SLACK = 5.0
"""Seconds beyond the grace in which the guest may drain its pipes, sync and end by itself."""
QUIT = 5.0
"""Seconds that an engine has for writing an image's tables."""
ESCAPED = 130
END_OF_FILE = b"\x04"
"""What a terminal in its usual mode takes for the end of its input (VEOF)."""


def run_plan(plan: Plan, *remotes: Remote) -> Outcome:
    """Run one VM in this process's main thread and wait for its end.

    :param remotes: hear of the run and may call the VM's public methods.
    :raise UsageError: the plan asks for what cannot be.
    :raise MissingError: there is no engine, kernel or init blob.
    :raise SandboxError: the sandbox was required and is not to be had.
    :raise EngineError: the engine did not start.
    """
    with ExitStack() as stack:
        plan.take_over(stack)
        return VirtualMachine(plan, stack, *remotes).run()


class VirtualMachine:
    """The supervisor's state: everything that was started hangs on one ExitStack.

    :ivar plan: what runs.
    :ivar engine: the engine's name, once it is chosen.
    :ivar paused: it was stopped where it is.
    :ivar door: where others find it, None as long as it is not listed.
    """

    def __init__(self, plan: Plan, stack: ExitStack, *remotes: Remote) -> None:
        self._warnings: list[str] = []
        self.plan = self._plan = plan = with_what_there_is(plan, self._warnings)
        self.engine = ""
        self.paused = False
        self.door: Listing | None = None
        self._remote = Remotes(remotes)
        self._early: list[int] = []
        self._stack = stack
        self._loop = Loop()
        stack.callback(self._loop.close)
        self._phases: dict[str, float] = {"start": time.monotonic()}
        self._reported: int | None = None
        self._exit: Exit | None = None
        self._verdict: tuple[int, str] | None = None
        self._heard: set[int] = set()
        self._has_ended = False
        self._lost = ""
        self._guest_log = GuestLog()
        self._disks: DiskServers | None = None
        self._shares: ShareServers | None = None
        self._engine_ended = False
        self._keep_resolver = False
        self._network: GuestNetwork | None = None
        self._ended: Ended | None = None
        self._window = Terminal(plan.stdin, plan.stdout) if plan.start.terminal else None
        self._devices: Devices | None = None
        self._commands: Commands | None = None
        if plan.console_output is None:
            self._log = BootLog(plan.boot_log)
        elif plan.boot_log is not None:
            raise UsageError("the kernel's console goes to one file: name a boot log or a console output")
        else:
            self._log = BootLog(plan.console_output, "the console's output")
        stack.callback(self._log.close)
        self._make_streams()

    # -- the way up --------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Start, serve until the end, and say how it was."""
        plan = self._plan
        if plan.name:
            from pykrun.vms import check_free

            check_free(plan.name)
        if plan.firmware is None:
            engine = engines.choose(plan.engine, plan.accel, plan.cpus, plan.kernel, plan.arch)
        else:
            engine = engines.choose_for_firmware(plan.engine, plan.accel, plan.arch)
        self.engine = engine.name
        machine = self._machine(engine)
        if plan.consoles or plan.serials or plan.vsock or plan.links:
            self._make_devices(machine)
        self._phase("prepared")
        self._running = running = engine.launch(machine, sandbox=plan.sandbox)
        self._stack.callback(running.close)
        self._phase("launched")
        self._log.attach(self._loop, running.console)
        self._stack.callback(self._log.detach)
        self._loop.add(running.pidfd, IN, lambda events: self._on_engine_end())
        if self._dhcp:
            self._prepare_resolver()
        if plan.network:
            self._start_network(machine.networks[0])
        self._serve(running, machine)
        self._phase("served")
        if plan.timeout is not None:
            reason = f"the VM was ended after {plan.timeout:g} seconds (--timeout)"
            self._loop.call_later(plan.timeout, partial(self._end, TIMED_OUT, reason))
        self._stack.callback(Signals(self._loop, FORWARDED, self._on_signal, deadline=plan.timeout).close)
        if self._window:
            self._stack.callback(self._window.restore)
        if plan.name is not None:
            self._open_door(plan.name)
        self._stack.callback(self._remote.detach)
        self._remote.attach(self._loop, self)
        try:
            self._loop.run()
        except HeldUp as held:
            code = TIMED_OUT if held.number == signal.SIGALRM else 128 + held.number
            self._verdict = (code, "the engine held its supervisor up, and was ended")
            running.kill()
        if self._commands is not None:
            self._commands.close()
        self._phase("ended")
        outcome = self._outcome(engine.name, running)
        self._remote.ended(outcome)
        return outcome

    def _open_door(self, name: str) -> None:
        """List the VM: not before the guest boots, as nothing waits for that, and signals are heard by now."""
        from pykrun.supervisor.listing import Listing

        self.door = Listing(name)
        self._stack.callback(self.door.close)
        self._remote.add(self.door)

    def _make_streams(self) -> None:
        plan, loop = self._plan, self._loop
        self._control = Control(
            Events(
                hello=self._on_hello,
                started=self._on_started,
                counts=self._on_counts,
                exit=self._on_exit,
                log=self._guest_log.add,
                close=self._on_close,
                done=self._on_done,
            ),
            self._on_peer_error,
        )
        self._acknowledgement = Acknowledgement(loop, self._control, self._has_handed_on)
        escape = Escape(partial(self._end, ESCAPED, "ended by ^] ^] ^]")) if self._window and plan.escape else None
        self._stdin = FdSource(
            loop,
            plan.stdin,
            on_end=self._control.stdin_end,
            end_mark=END_OF_FILE if self._window else b"",
            on_data=escape,
        )
        sinks = [
            FdSink(
                loop,
                fd,
                on_broken=partial(self._on_broken, stream),
                on_count=self._on_output,
            )
            for stream, fd in ((1, plan.stdout), (2, plan.stderr))
        ]
        self._stdout, self._stderr = sinks
        for close in (self._stdin.close, self._stdout.close, self._stderr.close):
            self._stack.callback(close)

    def _machine(self, engine: engines.Engine) -> Machine:
        from pykrun import blob

        firmware = self._plan.firmware
        kernel = engine.kernel(self._plan.kernel, self._plan.modules) if firmware is None else engine.firmware(firmware)
        self._init = blob.find(kernel.arch)
        machine, warnings = build(self._plan, engine, kernel, self._init.path, self._ports())
        self._warnings += warnings
        return machine

    def _ports(self) -> tuple[str, ...]:
        """The names of the ports. One more costs a boot some 3 ms: only without an init does the clock need its own."""
        ports = (CONTROL,) if self._plan.start.terminal else (CONTROL, *STREAM_PORTS)
        return (*ports, TIME) if self._is_pid1 else ports

    def _serve(self, running: Running, machine: Machine) -> None:
        """Imported here, while the kernel boots on another CPU: the servers' modules cost as much as the kernel."""
        start = replace(
            self._carried_over(),
            ports=machine.ports,
            window=self._window.size() if self._window else None,
            dhcp=self._dhcp,
            keep_resolver=self._keep_resolver,
            streams="console" if self._plan.start.terminal else ("ports" if self._is_pid1 else "relay"),
            seed=os.urandom(32),
            volumes=[
                (tag, volume.where, volume.share.read_only)
                for tag, volume in zip(machine.shares[1:], self._plan.volumes, strict=True)
                if volume.where is not None
            ],
        )
        if self._plan.share is not None or self._plan.volumes:
            self._serve_shares(running, machine, start)  # first: these processes import theirs meanwhile
        from pykrun.supervisor.timesync import ClockWatch, TimePort
        from pykrun.supervisor.wiring import Wiring

        wiring = Wiring(self._loop, running, self._on_peer_error)
        self._stack.callback(wiring.close)
        if self._plan.share is None:
            init = self._init.path if self._plan.init else None
            wiring.root(self._plan.root, start, init, self._on_exit_code)
        port = TimePort()
        self._clock = ClockWatch(self._loop, port.tell if self._is_pid1 else self._control.tell_time)
        self._stack.callback(self._clock.close)
        ends: dict[str, Ends] = {
            CONTROL: (self._control, self._control),
            STDIN: (None, self._stdin),
            STDOUT: (self._stdout, None),
            STDERR: (self._stderr, None),
            TIME: (port, port),
        }
        if self._network is not None:
            wiring.network(0, self._network.device)
        console: Ends | None = (self._stdout, self._stdin) if self._plan.start.terminal else None
        if console is None and machine.console:
            console = (self._log, None)
        wiring.ports({name: ends[name] for name in machine.ports}, console, self._on_port_end)
        if self._devices is not None:
            self._devices.serve(wiring, machine)
        self._wiring = wiring
        if running.disks:
            self._serve_disks(running, machine)

    def _carried_over(self) -> StartData:
        """The plan's start data, with what of the virtual root is to be seen in a disk's root too."""
        if self._plan.start.root_device is None:
            return self._plan.start
        from pykrun.supervisor.root_disk import carry_over

        return carry_over(self._plan.root, self._plan.start, self._plan.disks)

    def _serve_shares(self, running: Running, machine: Machine, start: StartData) -> None:
        from pykrun.supervisor.shares import ShareServers

        plan = self._plan
        wish: Wish = "require" if plan.sandbox == "require" else "auto"
        servers = ShareServers(self._loop, wish, self._on_disk_end, self._on_exit_code)
        self._stack.callback(servers.close)
        self._shares = servers
        ends = list(zip(machine.shares, running.shares, strict=True))
        if plan.share is not None:
            own = not plan.init or INIT_PATH in plan.root.files
            init = None if own else os.fspath(self._init.path)
            servers.root(running.engine, ends[0][1], ends[0][0], plan.share, init, start.encode())
        for (tag, endpoint), volume in zip(ends[1:], plan.volumes, strict=True):
            servers.volume(running.engine, endpoint, tag, volume.share)

    def _make_devices(self, machine: Machine) -> None:
        from pykrun.supervisor.devices import Devices

        self._devices = Devices(self._loop, self._plan, machine, self._on_port_end, self._on_network_failure)
        self._stack.callback(self._devices.close)

    def _serve_disks(self, running: Running, machine: Machine) -> None:
        from pykrun.supervisor.disks import DiskServers

        servers = DiskServers(self._loop, self._on_disk_end)
        self._stack.callback(servers.close)
        servers.start(running, machine.disks, "require" if self._plan.sandbox == "require" else "auto")
        self._disks = servers

    @property
    def _dhcp(self) -> bool:
        return self._plan.network if self._plan.dhcp is None else self._plan.dhcp

    def _prepare_resolver(self) -> None:
        from pykrun.supervisor.network import prepare_resolver

        start = self._plan.start
        self._keep_resolver = start.keep_resolver or prepare_resolver(self._plan.root, start.root_device is None)

    def _start_network(self, network: Network) -> None:
        """After the engine, which has its kernel to boot meanwhile."""
        from pykrun.supervisor.network import GuestNetwork

        self._network = GuestNetwork(self._loop, network, self._plan.publish, self._on_network_failure)
        self._stack.callback(self._network.close)

    @property
    def _is_pid1(self) -> bool:
        return self._plan.start.pid1 or any(word.startswith("KRUN_INIT_PID1=1") for word in self._plan.kernel_args)

    def _phase(self, name: str) -> None:
        if name not in self._phases:
            self._phases[name] = when = time.monotonic()
            self._remote.reached(name, when)

    # -- what the guest says -----------------------------------------------------------------------------------

    def _on_exit_code(self, code: int) -> None:
        self._reported = code & 0xFF

    def _on_hello(self, _version: int) -> None:
        self._phase("init")
        self._control.tell_time()
        self._clock.start()
        for stream, fd in ((1, self._plan.stdout), (2, self._plan.stderr)):
            if fd is None:  # closed before we started: nothing will ever fail here, so tell the guest now
                self._control.close_output(stream)

    def _on_started(self, _pid: int) -> None:
        self._phase("started")
        if self._window:
            self._window.raw()  # not before: until then Ctrl-C is ours
        if self._window and (size := self._window.size()):
            self._control.resize(*size)  # it may have changed since the start data was written
        for number in self._early:
            self._control.signal(number)
        self._early.clear()

    def _on_output(self, _count: int) -> None:
        self._phase("output")
        self._acknowledgement.look()

    def _on_counts(self, stdout: int, stderr: int) -> None:
        self._phase("exited")
        self._has_ended = True
        self._stdin.close()
        self._acknowledgement.expect(stdout, stderr)

    def _has_handed_on(self, stdout: int, stderr: int) -> bool:
        return self._window is not None or (self._stdout.count >= stdout and self._stderr.count >= stderr)

    def _on_broken(self, stream: int, error: OSError) -> None:
        if error.errno != errno.EPIPE and not self._lost:
            self._lost = f"standard {'output' if stream == 1 else 'error'}: {error.strerror}"
        self._control.close_output(stream)

    def _on_close(self, stream: int) -> None:
        if stream == 0 and self._window is None:  # else the guest would close the descriptor of our terminal
            self._stdin.close()
            self._remote.input_unread()

    def _on_exit(self, ended: Exit) -> None:
        self._exit = ended

    def _on_done(self) -> None:
        """Everything is synced and reported: the engine has nothing left to do but to shut down its devices."""
        self._phase("done")
        self._stop_engine()

    def _on_peer_error(self, error: PeerError) -> None:
        if self._exit is not None or (self._reported is not None and not self._control.greeted):
            self._stop_engine()  # a guest that reboots tears its rings down under us: it has said all it had to say
            return
        self._end(SET_UP_FAILED, f"the guest broke a protocol: {error}")

    def _on_network_failure(self, reason: str) -> None:
        """Without what it asked for a workload is not started; once it runs, its work is worth more than its line."""
        if "started" in self._phases or self._plan.network_optional:
            self._warnings.append(f"the network ended before the VM: {reason}")
        else:
            self._end(SET_UP_FAILED, f"there is no network: {reason}")

    def _on_disk_end(self, reason: str) -> None:
        """A disk's server is gone, and with it what the guest wants written."""
        if self._exit is None and not self._engine_ended:
            self._end(SET_UP_FAILED, reason)

    # -- what the host says ------------------------------------------------------------------------------------

    @property
    def commands(self) -> Commands:
        """Further commands in this VM; whether there can be any now, its `start` tells."""
        if self._commands is None:
            from pykrun.supervisor.commands import Commands

            self._commands = Commands(self._loop, self._control, self._why_no_commands)
        return self._commands

    def _why_no_commands(self) -> str:
        from pykrun.supervisor.commands import why_not

        over = self._has_ended or self._engine_ended or self._verdict is not None
        return why_not(self._control, over=over, started="started" in self._phases, pid1=self._is_pid1)

    def begin(self) -> None:
        """Let the workload start that the plan holds back (`StartData.hold`)."""
        self._control.begin()

    def send_signal(self, number: int) -> None:
        """Send the workload a signal, as soon as it runs; in PID1 mode there is nobody to hand it on."""
        if "started" in self._phases:
            self._control.signal(number)
        else:
            self._early.append(number)

    def stop(self, grace: float | None = None, code: int = 128 + signal.SIGTERM) -> None:
        """Ask the guest for an orderly end: TERM, KILL after the grace, sync; a guest without an init just ends.

        :param grace: seconds; None for the plan's, or `GRACE`. What is out of bounds is brought into them.
        :param code: the exit code where the guest does not end by itself.
        """
        planned = GRACE if self._plan.start.grace is None else self._plan.start.grace
        grace = bounded(planned if grace is None else grace)
        if self._has_ended:
            return
        self.resume()
        if self._plan.firmware is not None and self._running.press_power_button():
            self._loop.call_later(grace + SLACK, partial(self._end, code, ""))
        elif not self._control.greeted:
            self.end(code)
        elif self._is_pid1:
            self.end(code, "the VM was ended: a command that is PID 1 itself cannot be sent a signal")
        else:
            self._ask_to_stop(grace)
            self._loop.call_later(grace + SLACK, partial(self._end, code, ""))

    def _ask_to_stop(self, grace: float) -> None:
        """An orderly end; a workload that wants another signal than TERM for it gets that, and KILL when it is late."""
        if self._plan.stop_signal == signal.SIGTERM:
            self._control.stop(grace)
        else:
            self.send_signal(self._plan.stop_signal)
            self._loop.call_later(grace, partial(self._control.stop, 0))

    def pause(self) -> None:
        """Stop the VM where it is, until `resume` or an orderly end; harmless when it is."""
        if not (self.paused or self._engine_ended):
            self._running.pause()
            self.paused = True
            self._remote.reached("paused", time.monotonic())

    def resume(self) -> None:
        """Let it go on, with the right time; harmless when it does."""
        if self.paused:
            self._running.resume()
            self.paused = False
            self._control.tell_time()
            self._remote.reached("resumed", time.monotonic())

    @property
    def has_started(self) -> bool:
        """Whether the workload was executed; never where there is no init of ours to tell."""
        return "started" in self._phases

    @property
    def tells(self) -> bool:
        """Whether there is to be an init of ours that says how far it is, and does what it is asked for."""
        return self._plan.firmware is None and self._plan.init and not self._is_pid1

    def end(self, code: int, reason: str = "") -> None:
        """End the VM at once; the run's exit code is `code`, unless it had one."""
        self._end(code, reason)

    def hear(self, number: int) -> None:
        """Take a signal that came to whoever drives us as if it had come to this process."""
        self._on_signal(number)

    def _on_signal(self, number: int) -> None:
        """Hand it on; SIGTERM asks for an orderly end, and a second one or a second SIGINT ends the VM."""
        if number == signal.SIGWINCH and self._devices is not None:
            self._devices.resized()
        if number == signal.SIGWINCH and self._window:  # the guest's terminal makes the signal
            if size := self._window.size():
                self._control.resize(*size)
            return
        deadly = number in (signal.SIGINT, signal.SIGTERM)
        again = deadly and number in self._heard
        self._heard.add(number)
        if number == signal.SIGTERM and self._plan.firmware is not None and not again:
            self.stop()
        elif again or (deadly and (not self._control.greeted or self._has_ended)):
            self._end(128 + number, "")
        elif deadly and self._is_pid1:
            self._end(128 + number, "the VM was ended: a command that is PID 1 itself cannot be sent a signal")
        elif number == signal.SIGTERM:
            self.stop()
        else:
            self._control.signal(number)

    def _end(self, code: int, reason: str) -> None:
        """End the VM now; the first verdict counts."""
        if self._verdict is None:
            self._verdict = (code, reason)
        self._stdin.close()
        self._stop_engine()
        if self._engine_ended:
            self._loop.stop()

    def _stop_engine(self) -> None:
        """End the engine: it has nothing left to do, but perhaps to write what it holds of its disks."""
        if self._running.quit():
            self._loop.call_later(QUIT, self._running.kill)
        else:
            self._running.kill()

    def _on_engine_end(self) -> None:
        self._loop.remove(self._running.pidfd)
        self._ended = self._running.reap()
        self._engine_ended = True
        self._stdin.close()
        if self._shares is not None:
            self._shares.collect()
        self._wiring.drain()
        if self._devices is not None:
            self._devices.drain()
        if self._commands is not None:
            self._commands.vm_ended(self._on_port_end)
        self._on_port_end()

    def _on_port_end(self) -> None:
        """The run is over when the engine is, and what it had said was handed on."""
        others = (self._devices, self._commands)
        drained = self._wiring.drained and all(other is None or other.drained for other in others)
        if self._engine_ended and (self._verdict is not None or drained):
            self._loop.stop()

    # -- the result --------------------------------------------------------------------------------------------

    def _outcome(self, engine: str, running: Running) -> Outcome:
        self._log.drain()
        code, reason, console = judge(
            Evidence(
                decided=self._verdict,
                exit=self._exit,
                reported=self._reported,
                greeted=self._control.greeted,
                pid1=self._is_pid1,
                console=self._log.text,
                failed=self._ended.error if self._ended else "",
                end=running.describe_end(),
                lost=self._lost,
                is_free=self._plan.firmware is not None,
            )
        )
        if code == NOT_FOUND and (needed := missing_interpreter(self._plan.root, self._plan.start.program)):
            reason += f": it is there, but needs {needed}, which the root does not have (use a static program)"
        return Outcome(
            exit_code=code,
            signal=self._exit.signal if self._exit else 0,
            reason=printable(reason),
            console=self._log.last_lines() if console else [],
            warnings=self._warnings,
            log=self._guest_log.lines,
            phases=self._phases,
            engine=engine,
            isolation=running.isolation.description,
            share_isolation=self._shares.isolation if self._shares else "",
            disk_isolation=self._disks.isolation if self._disks else "",
        )
