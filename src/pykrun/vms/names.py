"""What VMs are called."""

from __future__ import annotations

import os

from pykrun.errors import UsageError

LONGEST = 64
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_FIRST = (
    *("agile", "amber", "brave", "brisk", "calm", "clear", "clever", "crisp", "eager", "early", "fair", "fleet"),
    *("fresh", "gentle", "glad", "happy", "keen", "kind", "light", "lucky", "mild", "neat", "noble", "plain"),
    *("proud", "quick", "quiet", "ready", "sharp", "sunny", "swift", "warm"),
)
_SECOND = (
    *("badger", "beaver", "bison", "crane", "dove", "eagle", "falcon", "finch", "fox", "hare", "heron", "ibex"),
    *("jay", "koala", "lark", "lemur", "lynx", "marten", "mole", "newt", "otter", "owl", "panda", "puffin"),
    *("raven", "robin", "seal", "stork", "swan", "tapir", "wren", "zebra"),
)


def check_name(name: str) -> str:
    """Return the name.

    :raise UsageError: no VM can be called so.
    """
    if not 1 <= len(name) <= LONGEST or name[0] not in _LETTERS or not _LETTERS.issuperset(name.translate(_OTHERS)):
        raise UsageError(
            f"a VM cannot be named {name!r}",
            f"a letter or digit, then letters, digits, dots, underscores and dashes: at most {LONGEST}",
        )
    return name


_OTHERS = str.maketrans("", "", "._-")


def make_name() -> str:
    """Return a name that is short, can be read, and that by chance somebody else may have: 1024 there are."""
    first, second = os.urandom(2)
    return f"{_FIRST[first % 32]}-{_SECOND[second % 32]}"
