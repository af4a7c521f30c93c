"""The site: built without a warning, whole in itself, and looked at in a browser on a desk and on a phone."""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.browser import Browser, find
from tests.house.sources import ROOT

pytestmark = pytest.mark.full

NOT_SET_UP = 69
TIMEOUT = 600
DESK = (1280, 800)
PHONE = (390, 844)
MAIN = (
    "index.html",
    "quick-start.html",
    "how-it-works.html",
    "guide/run-code-safely.html",
    "cli.html",
    "reference.html",
    "security.html",
    "performance.html",
    "comparison.html",
)

OVERFLOW = """(() => {
    const wide = document.documentElement.clientWidth + 1;
    if (document.documentElement.scrollWidth <= wide && document.body.scrollWidth <= wide) return '';
    return [...document.querySelectorAll('article *')].filter(e => e.getBoundingClientRect().right > wide)
        .map(e => e.outerHTML.slice(0, 80)).slice(0, 3).join(' | ') || 'something';
})()"""
TITLE = """(() => {
    const box = document.querySelector('article h1').getBoundingClientRect();
    return box.width > 20 && box.top >= 0 && box.bottom < innerHeight;
})()"""
PICTURES = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src).join(' ')"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [str(ROOT / "scripts" / "docs"), "--no-setup", str(folder)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT)
    if result.returncode == NOT_SET_UP:
        pytest.skip("what builds the site is not there (./setup browser)")
    assert result.returncode == 0, result.stdout
    assert "WARNING" not in result.stdout
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip("no chromium on PATH (./setup browser)")
    with Browser(program, tmp_path_factory.mktemp("browser")) as started:
        yield started


class Document(HTMLParser):
    """What a page of the site refers to, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.add(named["href"])
        elif tag in ("script", "img", "iframe", "source") and named.get("src"):
            self.loaded.add(named["src"])
        elif tag == "link" and named.get("rel") != "canonical" and "href" in named:
            self.loaded.add(named["href"])


def test_pages_load_nothing_from_elsewhere_and_their_links_are_whole(site: Path) -> None:
    documents = {path: Document(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(documents) > 25
    wrong = []
    for path, document in documents.items():
        for target in document.links | document.loaded:
            address = urlsplit(target)
            if address.scheme or address.netloc:
                if target in document.loaded:
                    wrong.append(f"{path.name} loads {target}")
                continue
            file = (path.parent / unquote(address.path)).resolve() if address.path not in ("", ".") else path
            if file.is_dir():
                file /= "index.html"
            if not file.exists():
                wrong.append(f"{path.name}: no {target}")
            elif address.fragment and file.suffix == ".html" and address.fragment not in documents[file].anchors:
                wrong.append(f"{path.name}: no anchor {target}")
    assert wrong == []


def test_no_page_is_wider_than_a_phone(site: Path, browser: Browser) -> None:
    wide = {}
    for path in sorted(site.rglob("*.html")):
        browser.open(path.as_uri(), *PHONE)
        if too_wide := browser.ask(OVERFLOW):
            wide[path.name] = too_wide
    assert wide == {}


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", MAIN)
def test_page_is_seen(site: Path, browser: Browser, name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Its title is on the first screen, its pictures are there, and it is not blank, in light and in dark."""
    for dark in (False, True):
        browser.asked.clear()
        browser.open((site / name).as_uri(), *size, dark=dark)
        picture = browser.picture()
        (tmp_path / f"{'dark' if dark else 'light'}.png").write_bytes(picture)
        assert different_rows(picture) > size[1] / 20
        assert browser.ask(TITLE)
        assert browser.ask(PICTURES) == ""
        assert browser.ask(OVERFLOW) == ""
        assert [address for address in browser.asked if not address.startswith(("file:", "data:", "blob:"))] == []


def test_the_main_job_is_on_the_first_screen_of_a_phone(site: Path, browser: Browser) -> None:
    browser.open((site / "index.html").as_uri(), *PHONE)
    shown = """[...document.querySelectorAll('article pre')].filter(e => e.getBoundingClientRect().bottom < innerHeight)
        .map(e => e.innerText).join('')"""
    text = browser.ask(shown)
    assert "pykrun run" in text
    assert "pykrun.run(" in text


def different_rows(png: bytes) -> int:
    """How many rows of a PNG differ from each other, as they are stored: a blank one has two at most."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data = b""
    height = 0
    position = 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        kind = png[position + 4 : position + 8]
        body = png[position + 8 : position + 8 + length]
        if kind == b"IHDR":
            height = int.from_bytes(body[4:8], "big")
        elif kind == b"IDAT":
            data += body
        position += 12 + length
    rows = zlib.decompress(data)
    stride = len(rows) // height
    return len({rows[start : start + stride] for start in range(0, len(rows), stride)})
