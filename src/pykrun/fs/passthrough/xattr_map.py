"""Names of extended attributes, as the guest says them and as the host has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from errno import ENAMETOOLONG, EPERM

from pykrun.fs.types import errno_error

NAME_MAX = 255


class XattrMap:
    """Prefixes in the guest's names, and what stands for them in the host's.

    `XattrMap([(b"", b"user.guest.")])` keeps all of a guest's attributes, `security.*` and `trusted.*` too, where an
    ordinary user may write them. `XattrMap([(b"security.", b"user.guest.security.")])` does so with some, and leaves
    the others as they are.

    The first rule that fits is taken. Names of the host that stand for a guest's name are seen under that name only.

    :param rules: (prefix in the guest, prefix on the host).
    :param others: names that no rule fits pass unchanged; otherwise they do not exist.
    :raise ValueError: a prefix on the host is empty or given twice.
    """

    def __init__(self, rules: Sequence[tuple[bytes, bytes]], *, others: bool = True) -> None:
        hosts = [host for _, host in rules]
        if len(set(hosts)) != len(hosts) or not all(hosts):
            raise ValueError("the prefixes on the host must differ, and none may be empty")
        self._rules = tuple(rules)
        self._hosts = tuple(hosts)
        self._others = others

    def to_host(self, name: bytes) -> bytes:
        """Turn a guest's name into the host's.

        :raise OSError: EPERM for a name that is not to be had, ENAMETOOLONG.
        """
        for guest, host in self._rules:
            if name.startswith(guest):
                name = host + name[len(guest) :]
                if len(name) > NAME_MAX:
                    raise errno_error(ENAMETOOLONG)
                return name
        if not self._others or name.startswith(self._hosts):
            raise errno_error(EPERM)
        return name

    def to_guest(self, names: Iterable[bytes]) -> list[bytes]:
        """Turn the host's names into those that the guest sees."""
        found = []
        for name in names:
            for guest, host in self._rules:
                if name.startswith(host):
                    seen = guest + name[len(host) :]
                    if self._leads_back(seen, name):
                        found.append(seen)
                    break
            else:
                if self._others and self._leads_back(name, name):
                    found.append(name)
        return found

    def _leads_back(self, seen: bytes, name: bytes) -> bool:
        """Whether the guest can reach the attribute by the name that it would be shown."""
        try:
            return self.to_host(seen) == name
        except OSError:
            return False
