"""`--xattrmap`: the rules of virtiofsd, as far as a table of prefixes can say them."""

from __future__ import annotations

import os

from pykrun.errors import UsageError
from pykrun.fs.passthrough import XattrMap

_HINT = ":map:KEY:PREPEND:, or :prefix:all:KEY:PREPEND: rules with :ok:all::: or :bad:all::: as the last one"


def parse(text: str) -> XattrMap:
    """Read rules, each in separators of its own choice.

    `map` is a `prefix` rule for a guest's names that start with KEY, followed by one for the rest: without KEY they do
    not exist, with it they pass unchanged. Names of the host that would collide are hidden either way.

    :raise UsageError: a rule is unknown, or one is missing at the end.
    """
    rules: list[tuple[bytes, bytes]] = []
    rest = text.strip()
    while rest:
        kind, fields, rest = _next_rule(text, rest)
        if kind == "map":
            key, prepend = fields
            return _made(text, [*rules, (key, prepend + key)], others=bool(key))
        scope, key, prepend = fields
        if scope != b"all" or kind not in ("prefix", "ok", "bad"):
            raise UsageError(f"--xattrmap {text!r} has a rule that is not known here", _HINT)
        if kind == "prefix":
            rules.append((key, prepend + key))
        elif key or prepend or rest:
            raise UsageError(f"--xattrmap {text!r}: {kind} is for all names and the last rule", _HINT)
        else:
            return _made(text, rules, others=kind == "ok")
    raise UsageError(f"--xattrmap {text!r} does not say what becomes of all other names", _HINT)


def _next_rule(text: str, rest: str) -> tuple[str, list[bytes], str]:
    """Take one rule off: its kind, its fields, what follows."""
    separator = rest[0]
    kind, _, after = rest[1:].partition(separator)
    count = 2 if kind == "map" else 3
    fields = after.split(separator, count)
    if len(fields) <= count or separator.isalnum():
        raise UsageError(f"--xattrmap {text!r} is cut off at {rest!r}", _HINT)
    return kind, [os.fsencode(field) for field in fields[:count]], fields[count].lstrip()


def _made(text: str, rules: list[tuple[bytes, bytes]], *, others: bool) -> XattrMap:
    try:
        return XattrMap(rules, others=others)
    except ValueError as error:
        raise UsageError(f"--xattrmap {text!r}: {error}") from None
