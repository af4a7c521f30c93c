"""The table's part on network, vsock, consoles, and devices that need a display or a server of their own."""

from __future__ import annotations

from pykrun.clib.abi.kinds import (
    BOOL,
    BYTES,
    INT,
    MAC,
    SIZE,
    SIZES,
    STRUCT,
    TEXT,
    TEXT_RW,
    TEXTS,
    U16,
    U32,
    U64,
    Constant,
    Param,
    Section,
    function,
)

_SOCKET = Param("c_path", TEXT, "its Unix socket; NULL if fd is given")
_FD = Param("fd", INT, "a socket that is connected to it; -1 if c_path is given")
_MAC = Param("c_mac", MAC, "the guest's address on this network, six bytes")
_FEATURES = Param(
    "features", U32, "NET_FEATURE_*: what the peer can do. Accepted, without effect: the guest is offered none"
)
_FLAGS = Param("flags", U32, "NET_FLAG_*")
_NET_ERRORS = ("-EINVAL: neither or both of path and descriptor, or unknown bits",)

NETWORK = Section(
    "Network",
    (
        function(
            "add_net_unixstream",
            _SOCKET,
            _FD,
            _MAC,
            _FEATURES,
            _FLAGS,
            about="Add a network device whose frames go through a stream socket, each behind its length (passt, "
            "socket_vmnet).",
            errors=_NET_ERRORS,
        ),
        function(
            "add_net_unixgram",
            _SOCKET,
            _FD,
            _MAC,
            _FEATURES,
            _FLAGS,
            about="Add a network device whose frames are datagrams (gvproxy with NET_FLAG_VFKIT, vmnet-helper).",
            errors=_NET_ERRORS,
        ),
        function(
            "add_net_tap",
            Param("c_tap_name", TEXT_RW, "the name of a TAP device"),
            _MAC,
            _FEATURES,
            _FLAGS,
            about="Add a network device whose frames go through a TAP device of the host.",
            errors=("-EINVAL: unknown bits",),
        ),
        function(
            "set_passt_fd",
            Param("fd", INT, "a socket that is connected to passt"),
            about="Add a network device. Deprecated: see krun_add_net_unixstream().",
        ),
        function(
            "set_gvproxy_path",
            Param("c_path", TEXT_RW, "gvproxy's Unix socket"),
            about="Add a network device. Deprecated: see krun_add_net_unixgram().",
        ),
        function(
            "set_net_mac",
            Param("c_mac", MAC, "six bytes"),
            about="Set the address of the network device that one of the two deprecated functions adds.",
        ),
        function(
            "set_port_map",
            Param(
                "port_map", TEXTS, "HOST:GUEST each, two TCP ports. NULL, every port the guest opens, is not supported"
            ),
            about="Publish ports of a guest without a network device.",
            errors=(
                "-EINVAL: no such ports, a port twice, or there is a network device",
                "-ENODEV: vsock is disabled",
                "-ENOTSUP: NULL",
            ),
        ),
    ),
    (
        Constant("NET_FLAG_VFKIT", "(1 << 0)", "Greet the peer as vfkit does, before the first frame."),
        Constant("NET_FLAG_DHCP_CLIENT", "(1 << 1)", "The guest's init is to ask for an address."),
        Constant("NET_FEATURE_CSUM", "(1 << 0)", "As in <linux/virtio_net.h>."),
        Constant("NET_FEATURE_GUEST_CSUM", "(1 << 1)"),
        Constant("NET_FEATURE_GUEST_TSO4", "(1 << 7)"),
        Constant("NET_FEATURE_GUEST_TSO6", "(1 << 8)"),
        Constant("NET_FEATURE_GUEST_UFO", "(1 << 10)"),
        Constant("NET_FEATURE_HOST_TSO4", "(1 << 11)"),
        Constant("NET_FEATURE_HOST_TSO6", "(1 << 12)"),
        Constant("NET_FEATURE_HOST_UFO", "(1 << 14)"),
        Constant(
            "COMPAT_NET_FEATURES",
            "(NET_FEATURE_CSUM | NET_FEATURE_GUEST_CSUM | NET_FEATURE_GUEST_TSO4 | NET_FEATURE_GUEST_UFO | "
            "NET_FEATURE_HOST_TSO4 | NET_FEATURE_HOST_UFO)",
            "Those of a device that one of the deprecated functions adds.",
        ),
    ),
    about="Devices are eth0, eth1, and so on in the guest, in the order of the calls. A guest without one gets "
    "user-mode networking, unless vsock is disabled.",
)

VSOCK = Section(
    "Vsock",
    (
        function(
            "add_vsock_port",
            Param("port", U32, "the guest's port"),
            Param("c_filepath", TEXT, "the Unix socket of the host"),
            about="Lead what the guest connects to that port to a Unix socket of the host.",
            errors=("-ENODEV: vsock is disabled",),
        ),
        function(
            "add_vsock_port2",
            Param("port", U32, "the guest's port"),
            Param("c_filepath", TEXT, "the Unix socket of the host"),
            Param("listen", BOOL, "whether the host connects, and the guest listens: the socket is made then"),
            about="Connect a port of the guest and a Unix socket of the host.",
            errors=("-ENODEV: vsock is disabled", "-EEXIST: with listen: something is at that path"),
        ),
        function(
            "add_vsock",
            Param("tsi_features", U32, "KRUN_TSI_*, which need a patched guest kernel; 0 for none"),
            about="Add the vsock device on its own terms.",
            errors=("-EEXIST: krun_disable_implicit_vsock() was not called before",),
        ),
        function("disable_implicit_vsock", about="Make no vsock device unless krun_add_vsock() asks for it."),
    ),
    (Constant("KRUN_TSI_HIJACK_INET", "(1 << 0)"), Constant("KRUN_TSI_HIJACK_UNIX", "(1 << 1)")),
)

_CONSOLE = Param("console_id", U32, "the console, as krun_add_virtio_console_multiport() returned it")
_NAME = Param("name", TEXT, "the name by which the guest finds it, may be empty")
_INPUT = Param("input_fd", INT, "where its input comes from; -1 for nothing")
_OUTPUT = Param("output_fd", INT, "where its output goes; -1 for nowhere")

CONSOLES = Section(
    "Consoles",
    (
        function(
            "set_console_output",
            Param("c_filepath", TEXT, "a file of the host"),
            about="Write what the implicit console says to a file; it gets no input then.",
            errors=("-EINVAL: it was set before",),
        ),
        function("disable_implicit_console", about="Make no console but those that are added."),
        function(
            "set_kernel_console",
            Param("console_id", TEXT, "a name: hvc0, ttyS0"),
            about="Set console= of the kernel's command line.",
        ),
        function(
            "add_virtio_console_default",
            _INPUT,
            _OUTPUT,
            Param("err_fd", INT, "where errors go; -1 for nowhere"),
            about="Add a console hvcN. For each of the three that is no terminal there is a port of its own, "
            "krun-stdin, krun-stdout or krun-stderr, which init makes the program's.",
        ),
        function(
            "add_serial_console_default",
            _INPUT,
            _OUTPUT,
            about="Add a serial console ttySN: eight with User Mode Linux, three with QEMU for x86_64, none for "
            "aarch64; virtio consoles (hvcN) stand in for the others.",
        ),
        function(
            "add_virtio_console_multiport",
            about="Add a console hvcN with exactly the ports that the next two functions add.",
            result="its id, 0 or more",
        ),
        function(
            "add_console_port_tty",
            _CONSOLE,
            _NAME,
            Param("tty_fd", INT, "a terminal, for both directions and the size of the window"),
            about="Add a port that is a console.",
            errors=("-EINVAL: no such console", "-ENOTTY: it is no terminal"),
        ),
        function(
            "add_console_port_inout",
            _CONSOLE,
            _NAME,
            _INPUT,
            _OUTPUT,
            about="Add a port for plain bytes: /dev/vportNpM.",
            errors=("-EINVAL: no such console",),
        ),
    ),
    about="The implicit console is hvc0, on standard input, output and error; one that is added is hvc1 then.",
)

_DISPLAY = Param("display_id", U32, "a display")
_UNSUPPORTED = ("-ENOTSUP: for each context",)

DISPLAY = Section(
    "Graphics and input",
    (
        function(
            "set_gpu_options",
            Param("virgl_flags", U32, "flags of virglrenderer"),
            about="Accepted, without effect: there is no GPU.",
        ),
        function(
            "set_gpu_options2",
            Param("virgl_flags", U32, "flags of virglrenderer"),
            Param("shm_size", U64, "the size of its memory in bytes"),
            about="Accepted, without effect: there is no GPU.",
        ),
        function(
            "add_display",
            Param("width", U32, "pixels"),
            Param("height", U32, "pixels"),
            about="Not supported.",
            errors=_UNSUPPORTED,
        ),
        function(
            "display_set_edid",
            _DISPLAY,
            Param("edid_blob", BYTES, "the description of a monitor"),
            Param("blob_size", SIZE, "how many bytes that is"),
            about="Not supported.",
            errors=_UNSUPPORTED,
        ),
        function(
            "display_set_dpi",
            _DISPLAY,
            Param("dpi", U32, "pixels an inch"),
            about="Not supported.",
            errors=_UNSUPPORTED,
        ),
        function(
            "display_set_physical_size",
            _DISPLAY,
            Param("width_mm", U16, "millimetres"),
            Param("height_mm", U16, "millimetres"),
            about="Not supported.",
            errors=_UNSUPPORTED,
        ),
        function(
            "display_set_refresh_rate",
            _DISPLAY,
            Param("refresh_rate", U32, "pictures a second"),
            about="Not supported.",
            errors=_UNSUPPORTED,
        ),
        function(
            "set_display_backend",
            Param("display_backend", STRUCT, "a structure of callbacks"),
            Param("backend_size", SIZE, "its size in bytes"),
            about="Not supported.",
            errors=_UNSUPPORTED,
        ),
        function(
            "add_input_device",
            Param("config_backend", STRUCT, "a structure of callbacks"),
            Param("config_backend_size", SIZE, "its size in bytes"),
            Param("events_backend", STRUCT, "a structure of callbacks"),
            Param("events_backend_size", SIZE, "its size in bytes"),
            about="Not supported.",
            errors=_UNSUPPORTED,
        ),
        function(
            "add_input_device_fd",
            Param("input_fd", INT, "an open /dev/input/event* of the host"),
            about="Hand an input device of the host to the guest.",
            errors=_UNSUPPORTED,
        ),
    ),
    (
        Constant("KRUN_MAX_DISPLAYS", "16"),
        Constant("VIRGLRENDERER_USE_EGL", "(1 << 0)", "As in virglrenderer's own header."),
        Constant("VIRGLRENDERER_THREAD_SYNC", "(1 << 1)"),
        Constant("VIRGLRENDERER_USE_GLX", "(1 << 2)"),
        Constant("VIRGLRENDERER_USE_SURFACELESS", "(1 << 3)"),
        Constant("VIRGLRENDERER_USE_GLES", "(1 << 4)"),
        Constant("VIRGLRENDERER_USE_EXTERNAL_BLOB", "(1 << 5)"),
        Constant("VIRGLRENDERER_VENUS", "(1 << 6)"),
        Constant("VIRGLRENDERER_NO_VIRGL", "(1 << 7)"),
        Constant("VIRGLRENDERER_USE_ASYNC_FENCE_CB", "(1 << 8)"),
        Constant("VIRGLRENDERER_RENDER_SERVER", "(1 << 9)"),
        Constant("VIRGLRENDERER_DRM", "(1 << 10)"),
    ),
)

_DEVICES = (
    ("CONSOLE", "3", (128, 128, 64, 64)),
    ("RNG", "4", (256,)),
    ("GPU", "16", (1024, 1024)),
    ("RTC", "17", (1024, 1024)),
    ("INPUT", "18", (1024, 1024)),
    ("VSOCK", "19", (128, 128, 128)),
    ("SND", "25", (64, 64, 64, 64)),
    ("CAN", "36", (64, 64, 64)),
)
"""Name, device id of virtio, sizes of the queues that are usual for it."""

VHOST_USER = Section(
    "Devices that another program plays",
    (
        function(
            "add_vhost_user_device",
            Param("device_type", U32, "KRUN_VIRTIO_DEVICE_*"),
            Param("socket_path", TEXT, "that program's Unix socket"),
            Param("name", TEXT, "a name for the log; NULL: one is made up"),
            Param("num_queues", U16, "how many queues; 0: as many as the program says"),
            Param("queue_sizes", SIZES, "their sizes, after the last one a 0 if num_queues is 0; NULL: 256 each"),
            about="Add a device that a vhost-user back end plays.",
            errors=("-EINVAL: no such device, or no path", "-ENOTSUP: no engine can do it"),
        ),
    ),
    (
        *(
            Constant(
                f"KRUN_VIRTIO_DEVICE_{name}", number, "Device ids, as virtio numbers them." if name == "CONSOLE" else ""
            )
            for name, number, _ in _DEVICES
        ),
        *(
            constant
            for name, _, sizes in _DEVICES
            for constant in (
                Constant(f"KRUN_VHOST_USER_{name}_NUM_QUEUES", str(len(sizes))),
                Constant(
                    f"KRUN_VHOST_USER_{name}_QUEUE_SIZES", f"((uint16_t[]){{{', '.join(str(size) for size in sizes)}}})"
                ),
            )
        ),
    ),
)

SECTIONS = (NETWORK, VSOCK, CONSOLES, DISPLAY, VHOST_USER)
