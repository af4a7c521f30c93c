"""What the shells make of `pykrun completion`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pykrun.cli import COMMANDS, completion
from tests.support.command import Pykrun

Complete = dict[str, list[str]]


def script(run_pykrun: Pykrun, shell: str) -> str:
    done = run_pykrun(["completion", shell])
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def need(shell: str) -> str:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on PATH (apt-get install {shell})")
    return program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file with blank.toml").write_text("")
    (tmp_path / "zfile").write_text("")
    return tmp_path


BASH = """
source ./script
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_pykrun
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ru"], ["run"]),
        (["help", "doc"], ["doctor"]),
        (["run", "--eng"], ["--engine"]),
        (["run", "--engine", ""], ["auto", "uml", "qemu"]),
        (["run", "--engine", "=", "u"], ["uml"]),
        (["run", "--engine", "="], ["auto", "uml", "qemu"]),
        (["run", "--root", ""], ["dir"]),
        (["run", "--boot-log", "zf"], ["zfile"]),
        (["run", "--config", "file"], ["file with blank.toml"]),
        (["run", "--file", "/x", "=", "zf"], ["zfile"]),
        (["run", "--file", "/x", "="], ["dir", "file with blank.toml", "zfile"]),
        (["run", "--hostname", ""], []),
        (["run", "--", "--eng"], []),
        (["run", "--", "zf"], ["zfile"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["doctor", "--"], ["--json", "--help", "--debug"]),
        (["unknown", "--"], []),
    ],
)
def test_bash(run_pykrun: Pykrun, folder: Path, words: list[str], expected: list[str]) -> None:
    program = need("bash")
    (folder / "script").write_text(script(run_pykrun, "bash"))
    done = subprocess.run(
        [program, "--norc", "-c", BASH, "bash", "pykrun", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    got = [line for line in done.stdout.splitlines() if line]
    assert sorted(name for name in got if name != "script") == sorted(expected), done.stderr


@pytest.fixture
def with_vms(folder: Path) -> dict[str, str]:
    """An environment whose pykrun lists two VMs."""
    program = folder / "bin" / "pykrun"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$*" = "ps --quiet" ] && printf "web\\nwood\\n"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["exec", "w"], ["web", "wood"]),
        (["exec", "-t", "we"], ["web"]),
        (["exec", "--wor"], ["--workdir"]),
        (["stop", "web", "wo"], ["wood"]),
    ],
)
def test_bash_knows_the_vms(
    run_pykrun: Pykrun, folder: Path, with_vms: dict[str, str], words: list[str], expected: list[str]
) -> None:
    program = need("bash")
    (folder / "script").write_text(script(run_pykrun, "bash"))
    command = [program, "--norc", "-c", BASH, "bash", "pykrun", *words]
    done = subprocess.run(command, cwd=folder, env=with_vms, capture_output=True, text=True, timeout=60)
    assert [line for line in done.stdout.splitlines() if line] == expected, done.stderr


def test_fish_knows_the_vms(run_pykrun: Pykrun, folder: Path, with_vms: dict[str, str]) -> None:
    program = need("fish")
    (folder / "script").write_text(script(run_pykrun, "fish"))
    command = [program, "--no-config", "-c", "source ./script; complete -C 'pykrun exec w'"]
    environment = {**with_vms, "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert {"web", "wood"} <= {word.partition("\t")[0] for word in done.stdout.splitlines()}, done.stderr


def test_zsh_knows_the_vms(
    run_pykrun: Pykrun, folder: Path, with_vms: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = need("zsh")
    monkeypatch.setenv("PATH", with_vms["PATH"])
    (folder / "script").write_text(script(run_pykrun, "zsh"))
    for line in ("pykrun exec ", "pykrun stop web "):
        assert {"web", "wood"} <= zsh_completes(program, folder, line), line


def test_bash_lists_every_command_and_option(run_pykrun: Pykrun, folder: Path) -> None:
    program = need("bash")
    (folder / "script").write_text(script(run_pykrun, "bash"))
    for words, expected in (([""], set(COMMANDS)), (["run", "-"], _options("run")), (["fs", "-"], _options("fs"))):
        command = [program, "--norc", "-c", BASH, "bash", "pykrun", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert expected <= set(done.stdout.splitlines())


def _options(command: str) -> set[str]:
    return {word for option in completion.options_of(command) for word in option.words}


ZSH = """
autoload -U compinit && compinit -u -D
source ./script
# What would be shown, as text: the one function through which all of them go.
compadd() { local -a found; builtin compadd -O found "$@"; print -l -- $found >> out; builtin compadd "$@" }
"""


def test_zsh(run_pykrun: Pykrun, folder: Path) -> None:
    program = need("zsh")
    (folder / "script").write_text(script(run_pykrun, "zsh"))
    assert subprocess.run([program, "-f", "-n", "script"], cwd=folder, timeout=60).returncode == 0
    for line, expected in (
        ("pykrun ru", {"run"}),
        ("pykrun run --engine ", {"auto", "uml", "qemu"}),
        ("pykrun run --root ", {"dir"}),
        ("pykrun run --roo", {"--root", "--root-disk"}),
        ("pykrun completion ", {"bash", "zsh", "fish"}),
    ):
        assert expected <= zsh_completes(program, folder, line), line


def zsh_completes(program: str, folder: Path, line: str) -> set[str]:
    """Type a line and two tabs into a zsh of its own, and see what it puts forward."""
    (folder / "out").unlink(missing_ok=True)
    (folder / "rc").write_text(ZSH)
    typed = (
        f"zmodload zsh/zpty; zpty z {program} -f -i; zpty -w z 'cd {folder}; source ./rc'; zpty -w z 'print READY'; "
        f"zpty -r -m z _ '*READY*READY*'; zpty -w -n z $'{line}\\t\\t'; "
        f"for i in {{1..60}}; do [[ -s {folder}/out ]] && break; sleep 0.5; done; sleep 0.5; zpty -d z"
    )
    subprocess.run([program, "-f", "-c", typed], cwd=folder, timeout=60, check=True, capture_output=True)
    out = folder / "out"
    return set(out.read_text().splitlines()) if out.exists() else set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pykrun ru", {"run"}),
        ("pykrun run --eng", {"--engine"}),
        ("pykrun run --engine ", {"auto", "uml", "qemu"}),
        ("pykrun run --root d", {"dir/"}),
        ("pykrun run --boot-log zf", {"zfile"}),
        ("pykrun completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_fish(run_pykrun: Pykrun, folder: Path, line: str, expected: set[str]) -> None:
    program = need("fish")
    (folder / "script").write_text(script(run_pykrun, "fish"))
    done = subprocess.run(
        [program, "--no-config", "-c", f"source ./script; complete -C '{line}'"],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    got = {word.partition("\t")[0] for word in done.stdout.splitlines()}
    assert expected <= got, done.stderr


def test_an_unknown_shell(run_pykrun: Pykrun) -> None:
    done = run_pykrun(["completion", "tcsh"])
    assert done.returncode == 2
    assert b"tcsh" in done.stderr


def test_the_help_is_what_argparse_shows() -> None:
    for command in COMMANDS:
        for option in completion.options_of(command):
            assert "%(" not in option.help, (command, option.words)
