"""What is decided when the blob is built (`pykrun.blob.switches` writes the values anew; docs/init-blob.md).

As they stand here they are the defaults. Use the module's attributes, never copies: `switches.TIMESYNC`.
"""

TIMESYNC = True
"""Whether the guest's clock follows the host's."""

TEE_ROOT = False
"""Whether the root is always /dev/vda, as in confidential guests: AMD SEV, Intel TDX."""

BUILT = 1795651200
"""No right clock is before this, in seconds since the epoch: SOURCE_DATE_EPOCH of the build, else the release's day."""
