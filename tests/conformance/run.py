"""Run scenarios below a folder: here, or as a program of a guest, which prints each trace as a line of JSON."""

from __future__ import annotations

import json
import os

from tests.conformance.table import Row, all_rows
from tests.conformance.world import Company, World


def trace_of(row: Row, company: Company, top: str, elsewhere: str) -> list[str]:
    """Run a scenario in a folder of its own; what it raises ends its trace."""
    before = os.umask(0)
    try:
        world = World(company, f"{top}/{row.name}", row.timed, elsewhere)
        try:
            row.run(world)
        except Exception as error:
            world.trace.append(f"raised {error!r}".replace(world.top, ""))
        return world.trace
    finally:
        os.umask(before)  # this process runs other tests, too


def chosen(step: int, full: bool) -> list[Row]:
    """Every `step`-th scenario."""
    return [row for row in all_rows() if full or not row.full][::step]


def main(top: str, elsewhere: str, step: int, full: bool) -> None:
    company = Company()
    try:
        for row in chosen(step, full):
            print(json.dumps([row.name, trace_of(row, company, top, elsewhere)]), flush=True)
    finally:
        company.close()
