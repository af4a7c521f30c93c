"""Words of a command line by a table of its options. argparse takes longer to import than most verbs take to run."""

from __future__ import annotations

from pykrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FLAG, VALUE, MANY, MAYBE = range(4)
"""An option without a value, with one, with one each time it is given, and with one only behind `=`."""

Table = dict[str, tuple[int, str]]
"""Option names, as in `bundle,b`, to their kind and their help."""


class Given:
    """What a command line said."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.rest: list[str] = []

    def flag(self, name: str) -> bool:
        """Whether it was given."""
        return self.values.get(name, ["false"])[-1] not in ("false", "0", "f", "F", "FALSE", "False")

    def value(self, name: str, default: str = "") -> str:
        """Its last value."""
        return self.values.get(name, [default])[-1]

    def every(self, name: str) -> list[str]:
        """All of its values."""
        return self.values.get(name, [])

    def only(self) -> str:
        """The one word that is left: a container's id.

        :raise UsageError: there is none, or there are more.
        """
        if len(self.rest) != 1:
            raise UsageError(f"one container ID is wanted, not {len(self.rest)}")
        return self.rest[0]


def parse(words: Sequence[str], table: Mapping[str, tuple[int, str]], *, verb: str) -> Given:
    """Read options up to the first word that is none, or to `--`; one or two dashes are the same, as runc has it.

    :raise UsageError: an option that is not there, or one without its value.
    """
    known = {name: (names.split(",")[0], kind) for names, (kind, _) in table.items() for name in names.split(",")}
    given = Given()
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            index -= 1
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name not in known:
            raise UsageError(
                f"there is no option {word.partition('=')[0]}", f"see `pykrun-oci {verb} --help`".replace("  ", " ")
            )
        long, kind = known[name]
        if kind in (VALUE, MANY) and not equals:
            if index == len(words):
                raise UsageError(f"option {word} needs a value")
            value = words[index]
            index += 1
        elif not equals:
            value = "true"
        given.values.setdefault(long, []).append(value)
    given.rest = list(words[index:])
    return given
