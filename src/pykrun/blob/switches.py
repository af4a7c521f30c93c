"""The blob's switches: which of its optional parts are in, and the day from which clocks count as right.

Both are fixed when the blob is built: they are the constants of `krun_init.switches`, whose text is written anew for
each build. A choice other than the default has an entry of its own in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pykrun.blob import recipe
from pykrun.blob.lookup import DATE
from pykrun.errors import UsageError
from pykrun.record import record

MODULE = "krun_init.switches"
DEFAULT_PARTS = tuple(name for name, is_in in recipe.SWITCHES.items() if is_in)

ALIASES = {"amd-sev": "tee-root", "intel-tdx": "tee-root", "tdx": "tee-root"}
"""Other names of switches: what a confidential guest's maker calls its kind. The code is the same for all."""

_LONGEST = 10
"""Digits of a date; more would not fit into a kernel's clock."""


@record(frozen=True)
class Choice:
    """What one blob is to be.

    :param parts: the switches that are on, in the recipe's order.
    :param date: seconds since the epoch, None for the day of the release.
    """

    parts: tuple[str, ...] = DEFAULT_PARTS
    date: int | None = None

    @property
    def suffix(self) -> str:
        """What tells its entry in the cache from the default's."""
        parts = "" if self.parts == DEFAULT_PARTS else f"-{'+'.join(self.parts) or 'plain'}"
        return parts if self.date is None else f"{parts}-{self.date}"

    def rewrite(self, text: str) -> str:
        """The text of `krun_init.switches` with this choice's values.

        :raise ValueError: a constant is not there.
        """
        values: dict[str, bool | int] = {name: name in self.parts for name in recipe.SWITCHES}
        if self.date is not None:
            values["built"] = self.date
        lines = text.split("\n")
        for name, value in values.items():
            constant = name.replace("-", "_").upper()
            (index,) = [at for at, line in enumerate(lines) if line.startswith(f"{constant} = ")]
            lines[index] = f"{constant} = {value}"
        return "\n".join(lines)


def chosen(with_parts: Iterable[str] = (), without_parts: Iterable[str] = ()) -> Choice:
    """The default with some parts more and some less, and the environment's date.

    :raise UsageError: there is no such switch, or SOURCE_DATE_EPOCH is no date.
    """
    parts = dict(recipe.SWITCHES)
    for names, is_in in ((with_parts, True), (without_parts, False)):
        for asked in names:
            name = ALIASES.get(asked, asked)
            if name not in parts:
                known = ", ".join((*parts, *ALIASES))
                raise UsageError(f"the init blob has no switch {asked!r}", f"there are: {known}")
            parts[name] = is_in
    return Choice(tuple(name for name, is_in in parts.items() if is_in), _date())


def _date() -> int | None:
    text = os.environ.get(DATE)
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _LONGEST:
        raise UsageError(f"{DATE} is {text!r}: not a number of seconds since the epoch")
    return int(text)
