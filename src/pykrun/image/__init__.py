"""Container images as root file systems: found, verified, unpacked once, and what they say about the command to run."""

from pykrun.image.config import Command, Config, command_line, environment, working_directory
from pykrun.image.missing import add_missing
from pykrun.image.opened import Image, open_image
from pykrun.image.reference import absolute_reference
from pykrun.image.store import Kept, kept_images, pull, remove
from pykrun.image.users import resolve_user

__all__ = [
    "Command",
    "Config",
    "Image",
    "Kept",
    "absolute_reference",
    "add_missing",
    "command_line",
    "environment",
    "kept_images",
    "open_image",
    "pull",
    "remove",
    "resolve_user",
    "working_directory",
]
