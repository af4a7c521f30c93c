"""Draw the pictures of docs/performance.md from what `./bench --json` has measured.

    python3 scripts/plots.py [FOLDER]

reads docs/data/*.json and writes docs/pictures/plot-*.svg (or into FOLDER). One line for each contestant: a bar up to
the median, a mark for each value. The pictures are narrow, so that their text can be read on a phone, and follow the
page into the dark.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 400
LEFT = 10
RIGHT = 390
ROW = 40
HEAD = 46
FOOT = 44

STYLE = """
svg { --page: #ffffff; --ink: #1f2a30; --soft: #5b6b73; --bar: #80cbc4; --peer: #cfd8dc; --dot: #00695c; }
@media (prefers-color-scheme: dark) {
  svg { --page: #1e2129; --ink: #e8ecef; --soft: #a9b4bb; --bar: #2f6f69; --peer: #47535a; --dot: #9fe0d8; }
}
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink); }
.title { font-weight: 600; } .soft { font-size: 11px; fill: var(--soft); }
.page { fill: var(--page); } .bar { fill: var(--bar); } .peer { fill: var(--peer); }
.dot { fill: var(--dot); fill-opacity: 0.55; }
"""


@dataclass(frozen=True)
class Plot:
    """One picture.

    :param name: of its file, without `plot-` and the ending.
    :param title: its own, short enough for a line.
    :param benchmark: whose tables are looked through.
    :param table: words that the table's title begins with.
    :param series: names of the contestants to show, in this order; none for all that are no parts.
    """

    name: str
    title: str
    benchmark: str
    table: str
    series: tuple[str, ...] = ()


PLOTS = (
    Plot("boot-uml", "User Mode Linux: engine start to a first line", "boot", "uml:"),
    Plot("boot-qemu", "QEMU without KVM: engine start to a first line", "boot", "qemu:"),
    Plot("run-uml", "User Mode Linux: the whole command", "run", "uml:", ("pykrun run", "pykrun --version")),
    Plot("many-starts", "User Mode Linux: request to the first byte", "many", "uml: request"),
    Plot(
        "many-memory",
        "User Mode Linux: memory of an idle VM",
        "many",
        "uml: memory",
        (
            "all, the guest's pages included",
            "beyond the guest's: python3.11",
            "beyond the guest's: linux.uml",
        ),
    ),
)


def draw_all(folder: Path, records: Sequence[dict[str, Any]]) -> list[Path]:
    """Draw every plot that the records have values for; the last record that has them counts."""
    drawn = []
    for plot in PLOTS:
        for record in reversed(records):
            table = find(plot, record)
            if table is not None:
                path = folder / f"plot-{plot.name}.svg"
                path.write_text(draw(plot, table, record), encoding="utf-8")
                drawn.append(path)
                break
    return drawn


def find(plot: Plot, record: dict[str, Any]) -> dict[str, Any] | None:
    """The table of a plot in a record."""
    tables = record["benchmarks"].get(plot.benchmark, {}).get("tables", [])
    return next((table for table in tables if table["title"].startswith(plot.table)), None)


def draw(plot: Plot, table: dict[str, Any], record: dict[str, Any]) -> str:
    """The picture, as SVG."""
    by_name = {series["name"]: series for series in table["series"]}
    names = plot.series or tuple(name for name, series in by_name.items() if not series["part"])
    chosen = [by_name[name] for name in names if name in by_name]
    # The furthest values may leave the picture where most are close together: what counts is the median.
    largest = max(min(max(series["values"]), 2.5 * series["median"]) for series in chosen) or 1
    height = HEAD + ROW * len(chosen) + FOOT
    machine = record["machine"]
    words = "; ".join(f"{series['name']}: {number(series['median'])} {table['unit']}" for series in chosen)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t d">',
        f'<title id="t">{escape(plot.title)}</title>',
        f'<desc id="d">Medians. {escape(words)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        text(LEFT, 20, plot.title, "title"),
        text(LEFT, 36, f"median and every value, {table['unit']}", "soft"),
    ]
    for index, series in enumerate(chosen):
        parts += row(HEAD + ROW * index, series, largest, peer=series["name"] == table["peer"])
    parts += [
        text(
            LEFT,
            height - 24,
            f"{record['date']}: {machine['cpu']}, {machine['cpus']} CPUs, load {machine['load']:.0f}",
            "soft",
        ),
        text(LEFT, height - 9, f"Linux {machine['kernel'].split('-')[0]}, Python {machine['python']}", "soft"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def row(top: int, series: dict[str, Any], largest: float, *, peer: bool) -> list[str]:
    """One contestant: its name and median, below them the bar and the values."""
    scale = (RIGHT - LEFT) / largest
    unit = series["median"] * scale
    marks = [
        f'<circle class="dot" cx="{LEFT + value * scale:.1f}" cy="{top + 26}" r="2.2"/>'
        for value in series["values"]
        if value <= largest
    ]
    return [
        text(LEFT, top + 15, series["name"]),
        f'<text x="{RIGHT}" y="{top + 15}" text-anchor="end">{number(series["median"])}</text>',
        f'<rect class="{"peer" if peer else "bar"}" x="{LEFT}" y="{top + 21}" width="{unit:.1f}" height="10" rx="2"/>',
        *marks,
    ]


def text(x: int, y: int, words: str, kind: str = "") -> str:
    """A line of text that begins at x."""
    return f'<text x="{x}" y="{y}"{f" class={kind!r}" if kind else ""}>{escape(words)}</text>'


def number(value: float) -> str:
    """About three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def load() -> list[dict[str, Any]]:
    """The records in docs/data, oldest name first."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((DOCS / "data").glob("*.json"))]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "pictures"
    for path in draw_all(target, load()):
        print(path)
