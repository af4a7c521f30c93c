"""`pykrun doctor`: what can run here, how isolated, what is missing, and the exact command that brings it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pykrun import blob, engine
from pykrun.blob import toolchain
from pykrun.cli.advice import advice, look
from pykrun.engine import facts
from pykrun.errors import MissingError, PykrunError
from pykrun.host.checkout import command_for, setup_program
from pykrun.net import passt, trial
from pykrun.sandbox import Isolation
from pykrun.version import VERSION

EPILOG = """examples:
  pykrun doctor
  pykrun doctor --json

The exit status is 0 if `pykrun run` has an engine, a kernel and an init to run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this subcommand's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; return 0 if something can run."""
    findings = examine()
    if arguments.json:
        import json

        print(json.dumps(findings, indent=2))
    else:
        print("\n".join(report(findings)))
    return 0 if findings["ready"] else 1


def examine() -> dict[str, Any]:
    """Find out; the result is what `--json` prints.

    `engines`, `network` and `init` are lists and objects with `works`, `detail` and, where something is missing,
    `install`; `advice` are sentences.
    """
    system = os.uname()
    engines = facts.engines()
    isolation = facts.isolation()
    init = _init()
    works = any(fact.works for fact in engines if fact.name in engine.TABLE)
    ready = works and bool(init["works"]) and isinstance(isolation, Isolation)
    findings: dict[str, Any] = {
        "version": VERSION,
        "host": {"machine": system.machine, "kernel": system.release, "python": sys.version.split()[0]},
        "ready": ready,
        "engine": _chosen() if works else None,
        "engines": [
            {"name": fact.name, "works": fact.works, "detail": fact.detail, "install": fact.install} for fact in engines
        ],
        "isolation": _isolation(isolation),
        "servers": _isolation(facts.servers()),
        "network": _network(),
        "init": init,
    }
    return findings | {"advice": advice(findings, look(os.environ))}


def report(findings: dict[str, Any]) -> list[str]:
    """Put the findings into lines for people."""
    host = findings["host"]
    lines = [f"pykrun {findings['version']}, Python {host['python']}, {host['machine']}, Linux {host['kernel']}", ""]
    parts = (*findings["engines"], findings["init"], findings["network"])
    rows = [(row["name"], row["works"], row["detail"]) for row in parts]
    for name in ("isolation", "servers"):
        rows.append((name, findings[name]["level"] is not None, findings[name]["detail"]))
    lines += [f"  {name:<10}{'yes' if works else 'no':<5}{detail}" for name, works, detail in rows]
    missing = [row for row in parts if row["install"]]
    if missing:
        lines += ["", "to get what is missing:"]
        by_command: dict[str, list[str]] = {}
        for row in missing:
            by_command.setdefault(row["install"], []).append(row["name"])
        lines += [f"  {command:<44} # {', '.join(names)}" for command, names in by_command.items()]
    if findings["advice"]:
        lines += ["", "here:"]
        lines += [f"  {text}" for text in findings["advice"]]
    lines.append("")
    if findings["ready"]:
        lines.append(f"`pykrun run` works here, by {findings['engine']}.")
    else:
        lines.append("`pykrun run` does not work here yet.")
    return lines


def _isolation(found: Isolation | str) -> dict[str, str | None]:
    if isinstance(found, Isolation):
        return {"level": found.level, "detail": found.description}
    return {"level": None, "detail": found}


def _chosen() -> str | None:
    """What `--engine auto` takes."""
    try:
        choice = engine.choose()
    except PykrunError:
        return None
    return choice.name + (f" ({choice.accel})" if choice.accel else "")


def _network() -> dict[str, Any]:
    """Whether `--net user` would work; `pykrun run` does without."""
    works, detail, install = False, "", ""
    try:
        works, detail = trial.works()
    except MissingError:
        detail, install = "passt is not installed", facts.install_command(passt.INSTALL)
    except PykrunError as error:
        detail = str(error)
    return {"name": "network", "works": works, "detail": detail, "install": install}


def _init() -> dict[str, Any]:
    try:
        found = blob.find()
    except PykrunError as error:
        return {"name": "init", "works": False, "detail": error.message, "install": _build_init()}
    return {"name": "init", "works": True, "detail": str(found.path), "install": ""}


def _build_init() -> str:
    build = command_for("pykrun.blob")
    packages = " ".join(toolchain.missing_packages())
    tools = facts.install_command({"apt": packages}) if packages else ""
    return f"{tools} && {build}" if tools and setup_program() is None else build
