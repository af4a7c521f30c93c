"""What MkDocs does differently for us: pages of the checkout outside docs/, and tables as they are written here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
OUTSIDE = {"changelog.md": "CHANGELOG.md"}
"""Page of the site to a file beside docs/, whose links start there."""

_CELL_CODE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages of OUTSIDE."""
    from mkdocs.structure.files import File

    for page, source in OUTSIDE.items():
        text = (CHECKOUT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links at those pages, and write a bar within code of a table as Python-Markdown wants it."""
    for page, source in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    lines = markdown.split("\n")
    return "\n".join(_CELL_CODE.sub(_bare_bar, line) if line.startswith("|") else line for line in lines)


def _bare_bar(code: re.Match[str]) -> str:
    return code[0].replace("\\|", "|")
