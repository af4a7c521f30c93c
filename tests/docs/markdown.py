"""The Markdown of the repository, read as far as its tests need it: headings, links, fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.sources import ROOT, tracked

_FENCE = re.compile(r"^( *)(`{3,}|~{3,}) *([\w-]*)")
_HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_COMMENT = re.compile(r"^<!-- *(.*?) *-->$")
_CODE = re.compile(r"(`+).*?\1")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the HTML comment on the line before it."""

    line: int
    language: str
    text: str
    mark: str


@dataclass(frozen=True)
class Link:
    """A link or an image."""

    line: int
    text: str
    target: str
    image: bool


class Page:
    """One Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.prose: list[tuple[int, str]] = []
        self.blocks: list[Block] = []
        self._read(path.read_text(encoding="utf-8").splitlines())

    def _read(self, lines: list[str]) -> None:
        mark = ""
        position = 0
        while position < len(lines):
            line = lines[position]
            fence = _FENCE.match(line)
            if fence is None:
                self.prose.append((position + 1, line))
                comment = _COMMENT.match(line)
                mark = comment[1] if comment else mark if not line.strip() else ""
                position += 1
                continue
            start = position + 1
            end = next((number for number in range(start, len(lines)) if lines[number].strip() == fence[2]), len(lines))
            text = "".join(f"{text[len(fence[1]) :]}\n" for text in lines[start:end])
            self.blocks.append(Block(start, fence[3], text, mark))
            mark = ""
            position = end + 1

    def anchors(self) -> set[str]:
        """What `#...` may be, by the rule that forges and the site share."""
        found: set[str] = set()
        for _, line in self.prose:
            if (heading := _HEADING.match(line)) is not None:
                name = slug(heading[1])
                number = 0
                while (anchor := f"{name}-{number}" if number else name) in found:
                    number += 1
                found.add(anchor)
        return found

    def links(self) -> Iterator[Link]:
        """Links and images outside of code."""
        for number, line in self.prose:
            for bang, text, target in _LINK.findall(_CODE.sub("``", line)):
                yield Link(number, text, target, bool(bang))


def slug(heading: str) -> str:
    """The anchor of a heading."""
    text = _LINK.sub(lambda link: link[2], heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def pages() -> list[Page]:
    """Every Markdown file of the repository."""
    return [Page(path) for path in tracked() if path.suffix == ".md"]
