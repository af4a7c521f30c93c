"""The guest's boot as a table: the order of the specification's section "Order", and the system calls that show it.

A new step is a new line here: its number in the specification, its name as KRUN_INIT_TRACE has it (module.function),
and patterns of the system calls that prove it ran, in order, as strace writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of init or of the workload's child.

    :param number: where the specification has it; 0 for what only we have, which may stand anywhere.
    """

    number: int
    name: str
    calls: tuple[str, ...] = ()


def mounted(kind: str, target: str) -> str:
    return rf'mount\("{kind}", "{target}", "{kind}", MS_'


BOOT = (
    Step(0, "session.standard_descriptors"),
    Step(0, "_linux.signalfd", (r"signalfd4\(-1, ",)),
    Step(0, "stage_one.enter_root"),
    Step(
        3,
        "mounts.standard",
        (
            mounted("devtmpfs", "/dev"),
            mounted("proc", "/proc"),
            mounted("sysfs", "/sys"),
            mounted("cgroup2", "/sys/fs/cgroup"),
            mounted("devpts", "/dev/pts"),
            mounted("tmpfs", "/dev/shm"),
        ),
    ),
    Step(0, "start.read", (r'openat\(AT_FDCWD, "/.krun_start.json"',)),
    Step(0, "ports.find", (r'openat\(AT_FDCWD, "/proc/self/fd/\d+"',)),
    Step(0, "main.open_control"),
    Step(3, "blockroot.enter"),
    Step(0, "layer.enter"),
    Step(3, "mounts.share_root", (r'mount\(NULL, "/", NULL, MS_REC\|MS_SHARED, NULL\)',)),
    Step(0, "entropy.credit"),
    Step(4, "session.begin", (r"setsid\(\)",)),
    Step(5, "network.up", (r'SIOCSIFFLAGS, \{ifr_name="lo", ifr_flags=IFF_UP\}',)),
    Step(6, "config.read", (r'openat\(AT_FDCWD, "/.krun_config.json"',)),
    Step(0, "mounts.volumes"),
    Step(7, "mounts.tmpfs", (mounted("tmpfs", "/first"), mounted("tmpfs", "/second"))),
    Step(0, "mount_list.make"),
    Step(8, "environment.compose"),
    Step(8, "environment.set_hostname", (r'sethostname\("ordered"',)),
    Step(9, "workload.enter", (r'chdir\("/first"\)',)),
    Step(10, "workload.compose"),
    Step(10, "streams.prepare", (r"pipe2\(",) * 3),
    Step(10, "timesync.start"),
    Step(11, "streams.start", (r"clone\(.*CLONE_VM\|CLONE_VFORK\|SIGCHLD",)),
)
"""What PID 1 does before the workload runs."""

CHILD = (
    Step(11, "session", (r"setpgid\(0, 0\)",)),
    Step(11, "streams", (r"dup3\(\d+, 0, 0\)", r"dup3\(\d+, 1, 0\)", r"dup3\(\d+, 2, 0\)", r"close_range\(3, ")),
    Step(11, "umask", (r"umask\(027\)",)),
    Step(11, "rlimits", (r"prlimit64\(0, RLIMIT_CORE, \{", r"prlimit64\(0, RLIMIT_NOFILE, \{")),
    Step(11, "bounding capabilities", (r"prctl\(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE",)),
    Step(
        11, "user", ("PR_SET_KEEPCAPS, 1", r"setgroups\(1, \[9\]\)", r"setresgid\(8, 8, 8\)", r"setresuid\(7, 7, 7\)")
    ),
    Step(11, "capabilities", (r"capset\(", r"PR_CAP_AMBIENT_CLEAR_ALL", r"PR_CAP_AMBIENT_RAISE, CAP_KILL")),
    Step(11, "noNewPrivileges", (r"PR_SET_NO_NEW_PRIVS, 1",)),
    Step(11, "signals", (r"rt_sigprocmask\(SIG_SETMASK, \[\]",)),
    Step(11, "execute", (r'execve\("/bin/sh"',)),
)
"""What the workload's child does before it is the workload (`_linux.STEPS`)."""

END = (
    Step(12, "processes", (r"kill\(-1, SIGKILL\) += 0",)),
    Step(12, "sync", (r"sync\(\)",)),
    Step(12, "read-only", (r'mount\(NULL, "/disk", NULL, MS_RDONLY\|MS_REMOUNT, NULL\) = 0',)),
    Step(12, "report", (r'write\(\d+, "\\10\\0\\0\\0\\4\\0', r'write\(\d+, "\\0\\0\\0\\0\\7\\0')),  # EXIT, DONE
    Step(12, "reboot", (r"reboot\(.*LINUX_REBOOT_CMD_RESTART",)),
)
"""How the machine goes down."""


def names(steps: Iterable[Step]) -> list[str]:
    return [step.name for step in steps]


def check_calls(lines: Sequence[str], steps: Iterable[Step]) -> None:
    """Every call of the steps is there, each after the one before.

    :raise AssertionError: one is not, or comes too early.
    """
    at = 0
    for step in steps:
        for call in step.calls:
            pattern = re.compile(call)
            found = next((index for index in range(at, len(lines)) if pattern.search(lines[index])), None)
            early = [line for line in lines[:at] if pattern.search(line)]
            assert found is not None, f"{step.name}: no {call} after {lines[at - 1]!r}; before: {early}"
            at = found + 1
