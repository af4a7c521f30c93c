"""Every error pykrun raises on purpose, as one tree.

::

    PykrunError                 anything below; `hint` says what to do next
    ├── UsageError              the caller asked for something that cannot be
    ├── MissingError            a program, kernel or file that is needed is not there
    ├── ImageError              a container image is damaged, hostile, or of an unknown kind
    ├── BlobError               the init blob could not be built or read
    ├── LibraryError            the C library could not be built
    ├── SandboxError            the host's kernel does not allow the isolation that was required
    ├── EngineError             the engine did not start, or ended when it should not have
    └── PeerError               bytes from a guest or an engine break a protocol
        ├── VhostUserError      a vhost-user message
        ├── VirtqueueError      a descriptor, a ring index, an address
        └── ControlError        a frame on the control port

A `PeerError` never leaves the host side of a device: it stops the queue, the connection or the VM that sent the bytes.
File system operations do not use this tree: they raise `OSError` with an errno, which the guest gets to see.
"""

from __future__ import annotations


class PykrunError(Exception):
    """Base of all errors.

    :param message: one line, says what is wrong.
    :param hint: one line, says what to do about it; empty when the message says so already.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(PykrunError):
    """The caller asked for something that cannot be: an option, a value, a combination."""


class MissingError(PykrunError):
    """A program, kernel or file that is needed is not there; the hint names the command that brings it."""


class BlobError(PykrunError):
    """The init blob could not be built, read or trusted."""


class LibraryError(PykrunError):
    """The C library could not be built."""


class SandboxError(PykrunError):
    """The isolation that was required is not to be had on this host."""


class EngineError(PykrunError):
    """The engine did not start, or ended when it should not have."""


class PeerError(PykrunError):
    """Bytes from a guest or an engine break a protocol; what sent them is stopped."""


class VhostUserError(PeerError):
    """A vhost-user message that must not be."""


class VirtqueueError(PeerError):
    """A descriptor, ring index or address that must not be."""


class ControlError(PeerError):
    """A frame on the control port that must not be."""


class ImageError(PykrunError):
    """A container image is damaged, incomplete, hostile, or of a kind that is not supported."""
