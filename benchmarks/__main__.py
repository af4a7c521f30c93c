"""`./bench [NAME...] [--json FILE]`: find the benchmarks of this package, run them, print their tables."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.harness import Benchmark, Machine, Options, Series, Table, Unavailable


def main(arguments: Sequence[str]) -> int:
    every = find()
    options = parse(arguments, every)
    machine = Machine()
    print(
        f"{machine.cpu}, {machine.cpus} CPUs, Linux {machine.kernel}, Python {machine.python}, load {machine.load:.1f}"
    )
    record: dict[str, Any] = {"date": date.today().isoformat(), "machine": asdict(machine), "benchmarks": {}}
    asked = Options(rounds=options.rounds, engines=tuple(options.engine.split(",")))
    failed = False
    for name in options.names or sorted(every):
        benchmark = every[name]
        print(f"\n{name}: {benchmark.about}", flush=True)
        tables: list[dict[str, Any]] = []
        record["benchmarks"][name] = {"tables": tables}
        try:
            result = benchmark.run(asked)
            for table in [result] if isinstance(result, Table) else result:
                print("\n".join(render(table)), flush=True)
                tables.append(to_record(table))
        except Unavailable as reason:
            print(f"  not measured: {reason}")
            record["benchmarks"][name]["unavailable"] = str(reason)
            failed = failed or name in options.names
        except Exception as error:
            traceback.print_exc()
            record["benchmarks"][name]["failed"] = repr(error)
            failed = True
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def parse(arguments: Sequence[str], every: dict[str, Benchmark]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./bench",
        description="Measure, and print medians and ratios against a peer of the same run.",
        epilog="benchmarks:\n" + "\n".join(f"  {name:10} {every[name].about}" for name in sorted(every)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks (default: all)")
    parser.add_argument("--json", metavar="FILE", help="also write every value to FILE")
    parser.add_argument("--rounds", type=int, metavar="N", help="measure every contestant N times")
    parser.add_argument(
        "--engine", default="uml,qemu", metavar="NAMES", help="engines, with commas (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in every]
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(sorted(every))}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds takes a number from 1")
    return options


def find() -> dict[str, Benchmark]:
    """Every `BENCHMARK` of the modules of this package, by name."""
    found = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            benchmark = getattr(importlib.import_module(f"benchmarks.{module.name}"), "BENCHMARK", None)
            if isinstance(benchmark, Benchmark):
                found[benchmark.name] = benchmark
    return found


def render(table: Table) -> list[str]:
    """The lines of a table, two spaces in."""
    head = ["", f"median {table.unit}", "best", "n", *([f"x {table.peer}"] if table.peer else []), ""]
    rows = [head, *(_row(table, series) for series in table.series)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["", f"  {table.title}"]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
        ]
        lines.append(("  " + "  ".join([*cells, row[-1]])).rstrip())
    for limit in table.limits:
        verdict = "met" if limit.met else "MISSED"
        lines.append(f"  limit {verdict}: {limit.text}: {number(limit.actual)}, at most {number(limit.bound)}")
    lines.extend(f"  {note}" for note in table.notes)
    return lines


def _row(table: Table, series: Series) -> list[str]:
    ratio = [] if table.peer is None else ["" if series.part else f"{table.ratio(series.name):.2f}"]
    name = f"  {series.name}" if series.part else series.name
    return [name, number(series.median), number(series.best), str(len(series.values)), *ratio, series.note]


def number(value: float) -> str:
    """A figure with about three significant digits; whole numbers stay whole."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def to_record(table: Table) -> dict[str, Any]:
    """A table as plain data for --json, every single value included."""
    return {
        "title": table.title,
        "unit": table.unit,
        "peer": table.peer,
        "series": [{**asdict(series), "median": series.median, "best": series.best} for series in table.series],
        "limits": [{**asdict(limit), "met": limit.met} for limit in table.limits],
        "notes": list(table.notes),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
