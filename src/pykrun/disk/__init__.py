"""Images of block devices on the host: opened, checked and locked; what is on them, as far as the host must know.

Others use: `open_image`.
"""

from pykrun.disk.image import open_image

__all__ = ["open_image"]
