"""What neither engine has: graphics, displays, input, devices of other processes, confidential computing."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from pykrun.krun.calls import Buffer, Refusal, Text, call, number, optional_text, text, unsupported
from pykrun.krun.context import find
from pykrun.krun.messages import WARNING, tell

NO_GPU = "there is no virtio-gpu device"
NO_INPUT = "there is no virtio-input device"
MAX_QUEUES = 1 << 16


@call
def krun_set_gpu_options(ctx_id: int, virgl_flags: int) -> int:
    """Accept the flags, and have no GPU: programs call this always. A line of the log says so.

    :return: 0; -ENOENT: no such context.
    """
    return _no_gpu("krun_set_gpu_options", ctx_id)


@call
def krun_set_gpu_options2(ctx_id: int, virgl_flags: int, shm_size: int) -> int:
    """Accept flags and memory size, and have no GPU: programs call this always. A line of the log says so.

    :return: 0; -ENOENT: no such context.
    """
    return _no_gpu("krun_set_gpu_options2", ctx_id)


@call
def krun_add_display(ctx_id: int, width: int, height: int) -> int:
    """Add a display. Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_add_display", NO_GPU)


@call
def krun_display_set_edid(ctx_id: int, display_id: int, edid_blob: Buffer, blob_size: int) -> int:
    """Set what a display says of itself. Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_display_set_edid", NO_GPU)


@call
def krun_display_set_dpi(ctx_id: int, display_id: int, dpi: int) -> int:
    """Set a display's dots per inch. Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_display_set_dpi", NO_GPU)


@call
def krun_display_set_physical_size(ctx_id: int, display_id: int, width_mm: int, height_mm: int) -> int:
    """Set a display's size in millimetres. Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_display_set_physical_size", NO_GPU)


@call
def krun_display_set_refresh_rate(ctx_id: int, display_id: int, refresh_rate: int) -> int:
    """Set a display's refresh rate in Hz. Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_display_set_refresh_rate", NO_GPU)


@call
def krun_set_display_backend(ctx_id: int, display_backend: Buffer, backend_size: int) -> int:
    """Set the functions that draw. Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_set_display_backend", NO_GPU)


@call
def krun_add_input_device(
    ctx_id: int,
    config_backend: Buffer,
    config_backend_size: int,
    events_backend: Buffer,
    events_backend_size: int,
) -> int:
    """Add an input device whose events come from functions. Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_add_input_device", NO_INPUT)


@call
def krun_add_input_device_fd(ctx_id: int, input_fd: int) -> int:
    """Add an input device of the host (/dev/input/*). Not supported.

    :return: -ENOENT: no such context; else -ENOTSUP.
    """
    return _unsupported(ctx_id, "krun_add_input_device_fd", NO_INPUT)


@call
def krun_add_vhost_user_device(
    ctx_id: int, device_type: int, socket_path: Text, name: Text, num_queues: int, queue_sizes: Sequence[int] | None
) -> int:
    """Add a device that another process serves over a vhost-user socket. Not supported, on either engine.

    :return: -EINVAL: a path that is NULL, empty or no UTF-8 text, queues that cannot be; -ENOENT: no such context;
        else -ENOTSUP.
    """
    if not text("socket_path", socket_path):
        raise Refusal(errno.EINVAL, "socket_path is empty")
    optional_text("name", name)
    number("device_type", device_type)
    count = number("num_queues", num_queues, 16)
    sizes = [] if queue_sizes is None else [number("a queue's size", size, 16) for size in queue_sizes]
    if queue_sizes is not None and count and len(sizes) < count:
        raise Refusal(errno.EINVAL, f"{count} queues have {len(sizes)} sizes")
    why = "an engine in its sandbox cannot reach other processes' sockets"
    return _unsupported(ctx_id, "krun_add_vhost_user_device", why)


@call
def krun_set_tee_config_file(ctx_id: int, filepath: Text) -> int:
    """Set the configuration of a confidential VM. Not supported.

    :return: -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context; else -ENOTSUP.
    """
    text("filepath", filepath)
    return _unsupported(ctx_id, "krun_set_tee_config_file", "there is no confidential computing without its hardware")


def _unsupported(ctx_id: int, name: str, why: str) -> int:
    find(ctx_id)
    return unsupported(name, why)


def _no_gpu(name: str, ctx_id: int) -> int:
    find(ctx_id)
    tell(WARNING, "%s has no effect: %s", name, NO_GPU)
    return 0
