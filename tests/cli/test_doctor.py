"""`pykrun doctor` on this machine, and on one that has nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import ROOT, Pykrun

SETUP = ROOT / "setup"


def findings(output: bytes) -> dict[str, dict[str, object]]:
    report = json.loads(output)
    return {row["name"]: row for row in (*report["engines"], report["network"], report["init"])} | {"report": report}


def test_says_what_can_run(run_pykrun: Pykrun) -> None:
    result = run_pykrun(["doctor"])
    text = result.stdout.decode()
    for word in ("uml", "qemu", "kvm", "qcow2", "network", "isolation", "servers", "init"):
        assert word in text
    assert ("works here, by" in text) == (result.returncode == 0)
    assert result.stderr == b""


def test_json_agrees_with_the_exit_status(run_pykrun: Pykrun) -> None:
    result = run_pykrun(["doctor", "--json"])
    report = json.loads(result.stdout)
    assert report["ready"] == (result.returncode == 0)
    for what in ("isolation", "servers"):
        assert report[what]["level"] in ("namespaces", "user-namespace", "reduced")
    works = {row["name"]: row["works"] for row in report["engines"]}
    if report["engine"]:
        assert works[report["engine"].split()[0]]


def test_without_anything_it_says_how_to_get_it(run_pykrun: Pykrun, tmp_path: Path) -> None:
    """A PATH with the package manager and nothing else, an empty cache."""
    manager = Path("/usr/bin/apt-get")
    if not manager.exists():
        pytest.skip("the packages' names are apt's here")
    (tmp_path / "apt-get").symlink_to(manager)
    env = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = run_pykrun(["doctor", "--json"], env={**env, "KRUN_INIT_BINARY_PATH": str(tmp_path / "none")})
    found = findings(result.stdout)
    assert result.returncode == 1
    assert not found["uml"]["works"]
    assert found["uml"]["install"] == "apt-get install user-mode-linux"
    assert found["qemu"]["install"] == "apt-get install qemu-system-x86"
    assert not found["kvm"]["works"]
    assert not found["qcow2"]["works"]
    assert found["qcow2"]["install"] == "apt-get install qemu-system-common"
    assert not found["network"]["works"]
    assert found["network"]["install"] == "apt-get install passt"
    assert not found["init"]["works"]
    assert found["init"]["install"] == str(SETUP)
    assert os.access(SETUP, os.X_OK)


def test_the_network_is_tried(run_pykrun: Pykrun) -> None:
    if shutil.which("passt") is None:
        pytest.skip("no passt on PATH (apt-get install passt)")
    found = findings(run_pykrun(["doctor", "--json"]).stdout)["network"]
    assert found["works"]
    assert str(found["detail"]).startswith("passt, /")


def test_a_passt_that_fails_is_quoted(run_pykrun: Pykrun) -> None:
    program = run_pykrun.folder / "passt"
    program.write_text('#!/bin/sh\necho "Couldn\'t create user namespace: no" >&2\nexit 1\n')
    program.chmod(0o755)
    result = run_pykrun(["doctor", "--json"], env={"PATH": f"{run_pykrun.folder}:{os.environ['PATH']}"})
    found = findings(result.stdout)["network"]
    assert not found["works"]
    assert found["detail"] == (
        "passt: Couldn't create user namespace: no (passt needs user namespaces, see docs/network.md)"
    )


@pytest.mark.qemu
def test_without_a_kernel_it_says_how_to_get_one(run_pykrun: Pykrun, tmp_path: Path) -> None:
    if os.path.exists(f"/boot/vmlinuz-{os.uname().release}"):
        pytest.skip("the host's own kernel serves")
    result = run_pykrun(["doctor", "--json"], env={"XDG_CACHE_HOME": str(tmp_path)})
    qemu = findings(result.stdout)["qemu"]
    assert not qemu["works"]
    assert qemu["install"] == str(SETUP)


def test_an_installation_has_other_commands(tmp_path: Path) -> None:
    """The package alone, in a folder whose name and neighbours are not a checkout's."""
    library = tmp_path / "src"
    shutil.copytree(ROOT / "src/pykrun", library / "pykrun", ignore=shutil.ignore_patterns("__pycache__"))
    ask = "from pykrun.host.checkout import command_for; print(command_for('pykrun.kernel'))"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(library)!r}); {ask}"]
    assert subprocess.check_output(command, text=True, timeout=60) == f"{sys.executable} -m pykrun.kernel\n"
    for name in ("setup", "pyproject.toml"):
        (tmp_path / name).touch(0o755)
    assert subprocess.check_output(command, text=True, timeout=60) == f"{tmp_path}/setup\n"
