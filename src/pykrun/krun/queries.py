"""What this library and this machine can do."""

from __future__ import annotations

import errno
import os

from pykrun.krun.calls import Refusal, call, number

NET, BLK, GPU, INPUT, TEE, AMD_SEV, INTEL_TDX, AWS_NITRO, VIRGL_RESOURCE_MAP2, INIT_BLOB = (
    0,
    1,
    2,
    4,
    6,
    7,
    8,
    9,
    10,
    11,
)
FEATURES = {
    NET: True,
    BLK: True,
    GPU: False,
    INPUT: False,
    TEE: False,
    AMD_SEV: False,
    INTEL_TDX: False,
    AWS_NITRO: False,
    VIRGL_RESOURCE_MAP2: False,
    INIT_BLOB: True,
}
MAX_VCPUS = 255
"""Of QEMU's emulation; also what `krun_set_vm_config` can be told."""
_NESTED = ("/sys/module/kvm_intel/parameters/nested", "/sys/module/kvm_amd/parameters/nested")


@call
def krun_check_nested_virt() -> int:
    """Tell whether guests can have virtual machines: the host has KVM for us, and it nests.

    :return: 1 or 0.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return 0
    return int(any(_read(path) in ("1", "y", "Y") for path in _NESTED))


@call
def krun_has_feature(feature: int) -> int:
    """Tell whether the library has a feature: network, block devices and the init, not GPU, input or TEE.

    :return: 1 or 0; -EINVAL: an unknown one.
    """
    known = FEATURES.get(number("feature", feature, 64))
    if known is None:
        raise Refusal(errno.EINVAL, f"there is no feature {feature}")
    return int(known)


@call
def krun_get_max_vcpus() -> int:
    """Tell how many virtual CPUs a VM may have: 255 with QEMU, 1 where there is User Mode Linux alone.

    :return: the number; -EINVAL: there is no engine.
    """
    from pykrun import engine

    found = [kind.max_cpus for kind in engine.TABLE.values() if kind.find() is not None]
    if not found:
        raise Refusal(errno.EINVAL, "there is no engine")
    return min(max(found), MAX_VCPUS)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read().strip()
    except (OSError, ValueError):
        return ""
