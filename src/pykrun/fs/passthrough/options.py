"""How a shared directory is to be served: what the guest may remember, and which of the host's features it sees."""

from __future__ import annotations

from pykrun.fs.passthrough.exports import ExportTable
from pykrun.fs.passthrough.xattr_map import XattrMap
from pykrun.record import record


@record(frozen=True, slots=True)
class Cache:
    """What the guest may remember, and for how many seconds.

    :param entries: that a name means an inode.
    :param attributes: an inode's attributes.
    :param negative: that a name is missing.
    :param listings: it may keep listings, and needs no handle for them.
    :param data: it may keep a file's pages over a close: "never", "unchanged" (as long as the file's time of change
        and its size are those of the last open), "always".
    """

    entries: float
    attributes: float
    negative: float
    listings: bool
    data: str


CACHES = {
    "auto": Cache(1.0, 1.0, 1.0, True, "unchanged"),
    "always": Cache(86400.0, 86400.0, 86400.0, True, "always"),
    "never": Cache(0.0, 0.0, 0.0, False, "never"),
}
"""By virtiofsd's names. auto: what changes on the host is seen after a second at most, and at every open. always:
only the guest changes the tree. never: the guest asks about everything, every time."""


@record(frozen=True, slots=True)
class Options:
    """The choices; the defaults suit a directory that the host may change too.

    :param cache: "auto", "always" or "never", or one of your own.
    :param writeback: the guest may collect writes: fast for small ones, but the host sees them late.
    :param direct_io: pass O_DIRECT on to the host; without it the host's page cache is used whatever the guest says.
    :param xattr: extended attributes exist.
    :param xattr_map: how their names are changed on the way.
    :param posix_acl: POSIX ACLs exist. Costs the guest a request for each file whose permissions others need.
    :param posix_locks: fcntl locks are the host's; otherwise they are among the guest's processes only.
    :param flocks: flock locks are the host's.
    :param submounts: tell the guest where another file system of the host begins, so that it has a device number of its
        own there.
    :param exports: where descriptors go that the guest exports (EXPORT_FD).
    :param file_system: this file system's number in that table.
    """

    cache: str | Cache = "auto"
    writeback: bool = False
    direct_io: bool = False
    xattr: bool = True
    xattr_map: XattrMap | None = None
    posix_acl: bool = False
    posix_locks: bool = False
    flocks: bool = False
    submounts: bool = True
    exports: ExportTable | None = None
    file_system: int = 0

    def policy(self) -> Cache:
        """Return the cache policy itself.

        :raise ValueError: there is none of that name.
        """
        if isinstance(self.cache, Cache):
            return self.cache
        if self.cache not in CACHES:
            raise ValueError(f"no cache policy {self.cache!r}; there are {', '.join(CACHES)}")
        return CACHES[self.cache]
