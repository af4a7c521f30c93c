"""The start data: what the host tells init, in a file that can be read once (docs/start-data.md)."""

from __future__ import annotations

from krun_init import checks, files, jsonload, rlimits, user
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.checks import Fields
    from krun_init.rlimits import Limits
    from krun_init.user import User

VERSION = 1
STREAMS = ("relay", "ports", "console")
DEFAULT_GRACE_MS = 10_000
_LONGEST_MS = 1 << 31


class Tmpfs:
    """A tmpfs to mount: where, and its options as words."""

    __slots__ = ("destination", "options")

    def __init__(self, destination: str, options: list[str]) -> None:
        self.destination = destination
        self.options = options


class Volume:
    """One more virtio-fs device and where it belongs."""

    __slots__ = ("destination", "readonly", "tag")

    def __init__(self, tag: str, destination: str, readonly: bool) -> None:
        self.tag = tag
        self.destination = destination
        self.readonly = readonly


class Mount:
    """One of a list of mounts: file system type (`root`: what lies in the root at `source`), where, with which options.

    With `copy` it begins with what the root has there; without an `optional` one the boot goes on.
    """

    __slots__ = ("copy", "destination", "kind", "optional", "options", "source")

    def __init__(self, kind: str, destination: str, options: list[str]) -> None:
        self.kind = kind
        self.destination = destination
        self.options = options
        self.source = ""
        self.copy = False
        self.optional = False


class Address:
    """What eth0 is to be: address and network; destination, prefix and gateway of each route; the size of packets."""

    __slots__ = ("address", "mtu", "prefix", "routes")

    def __init__(self, address: bytes, prefix: int, mtu: int | None) -> None:
        self.address = address
        self.prefix = prefix
        self.mtu = mtu
        self.routes: list[tuple[bytes, int, bytes]] = []


class BlockRoot:
    """A block device to boot into, the type of its file system (empty: probe), mount options with commas.

    `files` of the first root are shown in the new one too; `directories` are made there if they are missing.
    """

    __slots__ = ("device", "directories", "files", "fstype", "options")

    def __init__(self, device: str, fstype: str = "", options: str = "") -> None:
        self.device = device
        self.fstype = fstype
        self.options = options
        self.files: list[str] = []
        self.directories: list[str] = []


class Layer:
    """A writable layer over the root: in the virtio-fs device of that tag, in memory if it is empty."""

    __slots__ = ("tag",)

    def __init__(self, tag: str) -> None:
        self.tag = tag


class Start:
    """The start data; without any (a plain libkrun host) everything has its default and `present` is false."""

    present = False
    init: str | None = None
    argv: list[str] = []
    env: list[tuple[str, str]] = []
    workdir: str | None = None
    hostname: str | None = None
    user: User | None = None
    rlimits: Limits = {}
    terminal = False
    window: tuple[int, int] | None = None
    ports: list[str] = []
    streams = "ports"
    pid1 = False
    hold = False
    root: BlockRoot | None = None
    layer: Layer | None = None
    tmpfs: list[Tmpfs] = []
    mounts: list[Mount] = []
    volumes: list[Volume] = []
    seed = b""
    dhcp = False
    network: Address | None = None
    keep_resolver = False
    grace_ms = DEFAULT_GRACE_MS


def read(path: str) -> Start:
    """Read and check the start data; it is consumed by that.

    :raise InitError: it is there, but wrong.
    """
    try:
        data = files.read(path)
    except FileNotFoundError:
        return Start()
    except OSError as error:
        raise InitError(f"{path}: {reason_of(error)}") from None
    return parse(path, data)


def parse(where: str, data: bytes) -> Start:
    """Check the start data's bytes.

    :raise InitError: says what is wrong with which field.
    """
    try:
        fields = checks.Fields(where, jsonload.loads(data))
    except ValueError as error:
        raise InitError(f"{where} is not JSON: {error}") from None
    if fields.number("version", 0, 1 << 31) != VERSION:
        raise InitError(f"{where}: version must be {VERSION}; host and init are of different versions")
    start = Start()
    start.present = True
    _take_workload(start, fields)
    _take_surroundings(start, fields)
    return start


def _take_workload(start: Start, fields: Fields) -> None:
    start.init = fields.text("init")
    start.argv = fields.texts("argv") or []
    start.env = [checks.pair(fields.label("env"), word) for word in fields.texts("env") or ()]
    start.workdir = fields.text("workdir")
    start.hostname = fields.text("hostname")
    who = fields.child("user")
    start.user = user.parse(who) if who is not None else None
    start.rlimits = rlimits.from_start(fields)
    start.terminal = fields.flag("terminal")
    window = fields.numbers("window", 0, 65535)
    if window is not None:
        if len(window) != 2:
            raise InitError(f"{fields.label('window')} must be rows and columns")
        start.window = (window[0], window[1])
    start.pid1 = fields.flag("pid1")
    start.hold = fields.flag("hold")


def _take_surroundings(start: Start, fields: Fields) -> None:
    start.ports = fields.texts("ports") or []
    streams = fields.text("streams")
    if streams is not None:
        if streams not in STREAMS:
            raise InitError(f"{fields.label('streams')} must be relay, ports or console, not {streams!r}")
        start.streams = streams
    root = fields.child("root")
    start.root = _block_root(root) if root is not None else None
    layer = fields.child("layer")
    start.layer = Layer(layer.text("tag") or "") if layer is not None else None
    start.tmpfs = [tmpfs(entry) for entry in fields.children("tmpfs")]
    start.mounts = [_mount(entry) for entry in fields.children("mounts")]
    start.volumes = [_volume(entry) for entry in fields.children("volumes")]
    seed = fields.text("seed")
    if seed is not None:
        try:
            start.seed = bytes.fromhex(seed)
        except ValueError:
            raise InitError(f"{fields.label('seed')} must be hexadecimal") from None
    start.dhcp = fields.flag("dhcp")
    network = fields.child("network")
    start.network = _address(network) if network is not None else None
    start.keep_resolver = fields.flag("keep_resolver")
    grace = fields.number("grace_ms", 0, _LONGEST_MS)
    if grace is not None:
        start.grace_ms = grace


def tmpfs(entry: Fields) -> Tmpfs:
    """A tmpfs as OCI's `mounts` describe it.

    :raise InitError: no destination, or one that is not absolute.
    """
    return Tmpfs(_destination(entry), entry.texts("options") or [])


def _block_root(entry: Fields) -> BlockRoot:
    device = entry.text("device")
    if not device:
        raise InitError(f"{entry.where} needs a device")
    root = BlockRoot(device, entry.text("fstype") or "", entry.text("options") or "")
    root.files = entry.texts("files") or []
    root.directories = entry.texts("directories") or []
    for path in (*root.files, *root.directories):
        if path[:1] != "/":
            raise InitError(f"{entry.where} needs absolute paths, not {path!r}")
    return root


def _volume(entry: Fields) -> Volume:
    tag = entry.text("tag")
    if not tag:
        raise InitError(f"{entry.where} needs a tag")
    return Volume(tag, _destination(entry), entry.flag("readonly"))


def _address(entry: Fields) -> Address:
    prefix = entry.number("prefix", 0, 32)
    address = Address(_four(entry.label("address"), entry.text("address")), prefix or 0, entry.number("mtu", 0, 65535))
    for index, route in enumerate(entry.get("routes", list) or ()):
        label = f"{entry.label('routes')}[{index}]"
        if len(checks.expect(label, route, list)) != 3:
            raise InitError(f"{label} must be destination, prefix and gateway")
        bits = checks.number(label, route[1], 0, 32)
        address.routes.append((_four(label, route[0]), bits, _four(label, route[2])))
    return address


def _four(label: str, value: object) -> bytes:
    words = checks.text(label, value).split(".")
    if len(words) != 4 or not all(
        word.isascii() and word.isdigit() and len(word) < 4 and int(word) < 256 for word in words
    ):
        raise InitError(f"{label} must be an IPv4 address, not {value!r}")
    return bytes(map(int, words))


def _mount(entry: Fields) -> Mount:
    kind = entry.text("type")
    if not kind:
        raise InitError(f"{entry.where} needs a type")
    mount = Mount(kind, _destination(entry), entry.texts("options") or [])
    mount.source = entry.text("source") or ""
    mount.copy = entry.flag("copy")
    mount.optional = entry.flag("optional")
    return mount


def _destination(entry: Fields) -> str:
    destination = entry.text("destination")
    if not destination or destination[0] != "/":
        raise InitError(f"{entry.label('destination')} must be an absolute path, not {destination!r}")
    return destination
