"""Where kernels and modules are, stage one's initramfs, the uncompressed kernel in a bzImage.

`python -m pykrun.kernel` fetches and unpacks a kernel for QEMU.
"""

from pykrun.kernel.find import UML_MODULES, for_image, for_qemu, unpacked_kernels
from pykrun.kernel.image import uncompressed
from pykrun.kernel.initramfs import LAYER, NETWORK, VSOCK, console, initramfs

__all__ = [
    "LAYER",
    "NETWORK",
    "UML_MODULES",
    "VSOCK",
    "console",
    "for_image",
    "for_qemu",
    "initramfs",
    "uncompressed",
    "unpacked_kernels",
]
