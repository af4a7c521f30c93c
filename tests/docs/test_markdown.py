"""Links, anchors and pictures of the Markdown, as a forge shows it, and the site's list of pages."""

from __future__ import annotations

import re

from tests.docs.markdown import Page, pages, slug
from tests.house.sources import ROOT

PAGES = {page.path: page for page in pages()}


def broken(page: Page) -> list[str]:
    found = []
    for link in page.links():
        if re.match(r"[a-z]+:", link.target):
            continue
        name, _, anchor = link.target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        if not path.exists():
            found.append(f"{page.name}:{link.line}: no {link.target}")
        elif anchor and (path not in PAGES or anchor not in PAGES[path].anchors()):
            found.append(f"{page.name}:{link.line}: no heading for {link.target}")
    return found


def test_links_lead_somewhere() -> None:
    assert [line for page in PAGES.values() for line in broken(page)] == []


def test_pictures_are_told_in_words() -> None:
    assert [
        f"{page.name}:{link.line}" for page in PAGES.values() for link in page.links() if link.image and not link.text
    ] == []


def test_fenced_blocks_are_closed_and_have_a_known_language() -> None:
    known = {"", "sh", "python", "text", "toml", "json", "c", "rust"}
    wrong = [
        f"{page.name}:{block.line}" for page in PAGES.values() for block in page.blocks if block.language not in known
    ]
    assert wrong == []


def test_every_page_is_in_the_site() -> None:
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    docs = {str(path.relative_to(ROOT / "docs")) for path in PAGES if path.is_relative_to(ROOT / "docs")}
    assert docs - listed == set(), "give the page its place in mkdocs.yml"
    assert listed - docs == {"changelog.md"}


def test_pages_have_one_title() -> None:
    titles = {
        page.name: [line for _, line in page.prose if line.startswith("# ")]
        for path, page in PAGES.items()
        if path.is_relative_to(ROOT / "docs")
    }
    assert {name for name, lines in titles.items() if len(lines) != 1} == set()


def test_the_rule_for_anchors() -> None:
    assert slug("pykrun fs --socket-path SOCK (--null) [OPTION...]") == "pykrun-fs---socket-path-sock---null-option"
    assert slug("A `title`, with [a link](x.md)") == "a-title-with-a-link"
