"""Where in a TOML text a key stands, which tomllib does not tell.

The text is one that tomllib has taken, so that this reader may believe what it sees. TOML 1.0, toml.io.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))[ \t]*""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?!")|' + r"'''.*?'''(?!')|" + r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*\'""",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}\n#]+")


def find_lines(text: str) -> dict[Path, int]:
    """Return the line, counted from 1, of each key's first appearance; array members are numbers in the path."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}

    def read(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._next("[["):
                table = self._many(self._key())
                self._next("]]")
            elif self._next("["):
                table = self._resolve(self._key())
                self._note(table)
                self._next("]")
            else:
                self._assignment(table)
            self._skip(_BLANK)
        return self._lines

    def _many(self, key: tuple[str, ...]) -> Path:
        """`[[key]]`: one more member of that array."""
        array = (*self._resolve(key[:-1]), key[-1])
        self._note(array)
        index = self._counts[array] = self._counts.get(array, -1) + 1
        self._note((*array, index))
        return (*array, index)

    def _resolve(self, key: tuple[str, ...]) -> Path:
        """A header's path; through an array it means the array's last member."""
        path: Path = ()
        for part in key:
            path = (*path, part)
            if path in self._counts:
                path = (*path, self._counts[path])
        return path

    def _assignment(self, table: Path) -> None:
        start = self._at
        path = (*table, *self._key())
        for length in range(len(table) + 1, len(path) + 1):
            self._note(path[:length], start)
        self._next("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        if self._next("["):
            self._members(path)
        elif self._next("{"):
            self._skip(_BLANK)
            while not self._next("}"):
                self._assignment(path)
                self._skip(_BLANK)
                self._next(",")
                self._skip(_BLANK)
        else:
            self._skip(_STRING) or self._skip(_PLAIN)

    def _members(self, path: Path) -> None:
        index = 0
        self._skip(_BLANK)
        while not self._next("]"):
            self._note((*path, index))
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            self._next(",")
            self._skip(_BLANK)

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(_BLANK)
            match = _KEY.match(self._text, self._at)
            if match is None:
                raise ValueError(f"no key at {self._at}")
            self._at = match.end()
            quoted, literal, bare = match.groups()
            parts.append(_unescape(quoted) if quoted is not None else literal if literal is not None else bare)
            if not self._next("."):
                return tuple(parts)

    def _note(self, path: Path, at: int | None = None) -> None:
        self._lines.setdefault(path, self._text.count("\n", 0, self._at if at is None else at) + 1)

    def _next(self, word: str) -> bool:
        found = self._text.startswith(word, self._at)
        if found:
            self._at += len(word)
        return found

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match is not None


def _unescape(text: str) -> str:
    """A quoted key's own text, as tomllib has it."""
    if "\\" not in text:
        return text
    import tomllib

    value: str = tomllib.loads(f'x = "{text}"')["x"]
    return value
