"""Images of block devices on the host: opened, checked and locked; what is on them, as far as the host must know.

Others use: `open_image`, `doubts`, and `file_system` of one of an image's places.
"""

from pykrun.disk.contents import file_system
from pykrun.disk.image import doubts, open_image

__all__ = ["doubts", "file_system", "open_image"]
