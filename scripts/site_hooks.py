"""What MkDocs does differently for us: pages of the checkout outside docs/, and tables as they are written here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
OUTSIDE = {"changelog.md": "CHANGELOG.md"}
"""Page of the site to a file beside docs/, whose links start there."""

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s#]+)\)")

_SHORT_CODE = re.compile(r"<code>([^<\n]{1,26})</code>")
"""Short enough for one line of a phone: an option is not to be cut after its hyphens."""

_MODE = re.compile(r'(<span class="n">mode</span>.{0,800}?<span class="mi">)([0-9]+)(?=</span>)')
"""Default permission bits in a signature, of which the parser has only kept the number."""

_CELL_CODE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages of OUTSIDE."""
    from mkdocs.structure.files import File

    for page, source in OUTSIDE.items():
        text = (CHECKOUT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links out of docs/ into names; write bars in code of tables, and brackets of titles, for Python-Markdown."""
    folder = (CHECKOUT / "docs" / page.file.src_uri).parent
    markdown = _LINK.sub(lambda link: _inside(link, folder), markdown)
    lines = markdown.split("\n")
    return "\n".join(map(_line, lines))


def on_page_content(html: str, **_: Any) -> str:
    """Keep short code on one line, and write permission bits as everybody does."""
    html = _MODE.sub(lambda mode: f"{mode[1]}0o{int(mode[2]):o}", html)
    return _SHORT_CODE.sub(r'<code class="short">\1</code>', html)


def _inside(link: re.Match[str], folder: Path) -> str:
    """A link as it is, or to the page that stands for a file outside, or that file's name."""
    path = Path(os.path.normpath(folder / link[2]))
    if path.is_relative_to(CHECKOUT / "docs") or not path.is_relative_to(CHECKOUT) or not path.exists():
        return link[0]
    name = str(path.relative_to(CHECKOUT))
    for inside, source in OUTSIDE.items():
        if name == source:
            return f"[{link[1]}]({inside})"
    return link[1] if name in link[1] else f"{link[1]} (`{name}`)"


def _line(line: str) -> str:
    if line.startswith("|"):
        return _CELL_CODE.sub(_bare_bar, line)
    return line.replace("] [", "] \\[") if line.startswith("## ") else line


def _bare_bar(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")
