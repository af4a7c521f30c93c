"""What is to be run, and what came of it."""

from __future__ import annotations

from pykrun.machine import Disk
from pykrun.record import field, record
from pykrun.root import Root
from pykrun.start_data import StartData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.net import Publish
    from pykrun.share import Share


@record(frozen=True, slots=True, kw_only=True)
class Plan:
    """One VM and its one workload.

    :param root: the root file system; closed by the supervisor.
    :param share: the directory of the host that lies below the root's entries, as a share of `root`; None for nothing.
    :param volumes: further directories: the path at which each is mounted in the guest, and the share.
    :param start: the workload; the supervisor fills in what depends on the machine (ports, window, seed).
    :param disks: block devices, /dev/vda first; their descriptors are closed by the supervisor.
    :param engine: `auto` or an engine's name.
    :param accel: `auto`, `kvm` or `tcg`.
    :param kernel: path of a kernel, None for the engine's default.
    :param modules: folder with its modules, None for what belongs to the kernel.
    :param arch: the machine that the guest is, as `uname -m` says; None for the kernel's or the host's.
    :param cpus: None when the caller does not care.
    :param network: the guest has a network (docs/network.md).
    :param publish: ports of this host that lead into the guest.
    :param timeout: seconds until the VM is ended, None for no limit.
    :param sandbox: `auto` or `require`.
    :param boot_log: file that receives the kernel's console.
    :param stdin: descriptor, None when closed; likewise `stdout`, `stderr`.
    """

    root: Root
    start: StartData
    share: Share | None = None
    volumes: tuple[tuple[bytes, Share], ...] = ()
    disks: tuple[Disk, ...] = ()
    engine: str = "auto"
    accel: str = "auto"
    kernel: str | None = None
    modules: str | None = None
    arch: str | None = None
    kernel_args: tuple[str, ...] = ()
    cpus: int | None = None
    memory_mib: int = 256
    network: bool = False
    publish: tuple[Publish, ...] = ()
    timeout: float | None = None
    sandbox: str = "auto"
    boot_log: str | None = None
    stdin: int | None = 0
    stdout: int | None = 1
    stderr: int | None = 2


@record(slots=True, kw_only=True)
class Outcome:
    """How a run ended.

    :param exit_code: as a shell would see it: the workload's, 128+n, or 124 to 127 of ours.
    :param signal: what ended the workload, 0 for an exit.
    :param reason: one line when something other than the workload failed.
    :param console: the kernel's last words, when the guest did not end as it should.
    :param warnings: what was not to be had as it was asked for.
    :param log: what the guest's init had to say: level (0 error to 3 debug) and text.
    :param disk_isolation: how isolated the servers of the disks are, where they are not the engine's.
    :param share_isolation: how isolated the servers of the shared directories are.
    :param phases: name and monotonic time in seconds of each step reached, in order.
    """

    exit_code: int
    signal: int = 0
    reason: str = ""
    console: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    log: list[tuple[int, str]] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    engine: str = ""
    isolation: str = ""
    disk_isolation: str = ""
    share_isolation: str = ""
