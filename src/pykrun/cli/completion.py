"""`pykrun completion`: scripts that let a shell complete this command, made from the commands' own declarations."""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass

from pykrun.cli import COMMANDS

EPILOG = """examples:
  pykrun completion bash > ~/.local/share/bash-completion/completions/pykrun
  pykrun completion zsh > "${fpath[1]}/_pykrun"
  pykrun completion fish > ~/.config/fish/completions/pykrun.fish
  source <(pykrun completion bash)     # for this shell only
"""

SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("DIR", "MOUNTPOINT", "HOST:GUEST[:ro]", "memory|DIR")
FILES = ("FILE", "IMAGE[:ro]", "SOCK", "GUEST=HOST[:MODE]", "REF")
EVERYWHERE = {"--help": "show this help", "--debug": "show a traceback when something fails"}


@dataclass(frozen=True)
class Option:
    """One option, or what stands without one.

    :ivar words: how it is written; empty for a positional argument.
    :ivar value: what it takes: `none`, `any`, `files`, `folders`, `vms` or `choices`.
    """

    words: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    help: str
    name: str
    repeats: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this subcommand's options."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    made = {"bash": bash, "zsh": zsh, "fish": fish}[arguments.shell]
    print(made({name: options_of(name) for name in COMMANDS}), end="")
    return 0


def options_of(command: str) -> list[Option]:
    """What a command declares."""
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"pykrun.cli.{command}").add_arguments(parser)
    found = [_option(action) for action in parser._actions]
    return found + [Option((word,), "none", (), text, "", False) for word, text in EVERYWHERE.items()]


def _option(action: argparse.Action) -> Option:
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    value = "any"
    if action.nargs == 0:
        value = "none"
    elif action.choices is not None:
        value = "choices"
    elif name in FOLDERS:
        value = "folders"
    elif name in FILES:
        value = "files"
    elif name == "VM":
        value = "vms"
    return Option(
        words=tuple(action.option_strings),
        value=value,
        choices=tuple(map(str, action.choices or ())),
        help=_help(action),
        name=name,
        repeats=isinstance(action.default, list) or action.nargs == "+",
    )


def _help(action: argparse.Action) -> str:
    """The help as argparse shows it, with %(default)s and the like filled in."""
    return (action.help or "") % {"prog": "pykrun", **vars(action)}


def bash(commands: dict[str, list[Option]]) -> str:
    """The script for bash 4 or later."""
    values, words = [], []
    for name, options in commands.items():
        words.append(f"        {name}) words='{' '.join(word for option in options for word in option.words)}' ;;")
        for option in options:
            pattern = "|".join(f"'{name} {word}'" for word in option.words)
            action = {
                "choices": f"_pykrun_words '{' '.join(option.choices)}'",
                "folders": "_pykrun_files -d",
                "files": "_pykrun_files -f",
                "any": ":",
            }.get(option.value)
            if pattern and action:
                values.append(f"        {pattern}) {action}; return ;;")
            elif not pattern and option.choices:
                words[-1] = f"        {name}) words='{' '.join(option.choices)}' ;;"
            elif not pattern and option.value == "vms":
                words[-1] = words[-1].removesuffix(" ;;") + "; [[ $cur == -* ]] || words=$(_pykrun_vms) ;;"
    return _BASH.format(commands=" ".join(commands), values="\n".join(values), words="\n".join(words))


_BASH = """# bash completion for pykrun, made by `pykrun completion bash`
_pykrun_words() {{
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}}

_pykrun_files() {{
    compopt -o filenames 2> /dev/null
    mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}}

_pykrun_vms() {{
    "${{COMP_WORDS[0]}}" ps --quiet 2> /dev/null
}}

_pykrun() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} command=${{COMP_WORDS[1]}} words='' word
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        _pykrun_words '{commands} help --help --version'
        return
    fi
    # To readline, = and : are words of their own.
    if [[ $cur == [=:] ]]; then
        prev=$cur
        cur=
    fi
    if [[ $prev == [=:] ]]; then
        word=${{COMP_WORDS[COMP_CWORD - 2]}}
        [[ ${{COMP_WORDS[COMP_CWORD]}} == "$prev" ]] && word=${{COMP_WORDS[COMP_CWORD - 1]}}
        if [[ $word != -* ]]; then
            _pykrun_files -f
            return
        fi
        prev=$word
    fi
    for word in "${{COMP_WORDS[@]:2:COMP_CWORD-2}}"; do
        if [[ $word == -- ]]; then
            _pykrun_files -f
            return
        fi
    done
    case "$command $prev" in
{values}
    esac
    case $command in
        help) words='{commands}' ;;
{words}
    esac
    if [[ $cur == -* || $words != -* ]]; then
        _pykrun_words "$words"
    else
        _pykrun_files -f
    fi
}}

complete -F _pykrun pykrun ./pykrun
"""


def zsh(commands: dict[str, list[Option]]) -> str:
    """The script for zsh."""
    parts = []
    for name, options in commands.items():
        lines = [f"            {_zsh(option)}" for option in options]
        if name in ("run", "config"):
            lines.append("            '(-):command:_files'")
        if name in ("run", "config", "exec"):
            lines.append("            '*::arguments:_normal'")
        parts.append(f"        {name})\n            specs=(\n" + "\n".join(lines) + "\n            )\n            ;;")
    names = "\n".join(f"        {_quoted(f'{name}:{text}')}" for name, text in COMMANDS.items() if name in commands)
    return _ZSH.format(names=names, cases="\n".join(parts))


def _zsh(option: Option) -> str:
    actions = {"folders": "_files -/", "files": "_files", "vms": "_pykrun_vms", "any": " "}
    actions["choices"] = f"({' '.join(option.choices)})"
    name = option.name.replace(":", " ").replace("[", "").replace("]", "")
    value = "" if option.value == "none" else f":{name}:{actions[option.value]}"
    if not option.words:
        return _quoted(f"*{value}" if option.repeats else value)
    text = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    start = "*" if option.repeats else f"({' '.join(option.words)})"
    if len(option.words) == 1:
        return _quoted(f"{start}{option.words[0]}[{text}]{value}")
    return f"{_quoted(start)}{{{','.join(option.words)}}}{_quoted(f'[{text}]{value}')}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_ZSH = """#compdef pykrun
# zsh completion for pykrun, made by `pykrun completion zsh`
_pykrun_vms() {{
    local -a running
    running=(${{(f)"$(pykrun ps --quiet 2> /dev/null)"}})
    compadd -a running
}}

_pykrun() {{
    local -a names specs
    names=(
{names}
    )
    if ((CURRENT == 2)); then
        _describe command names
        return
    fi
    case $words[2] in
        help)
            _describe command names
            return
            ;;
{cases}
        *)
            return 1
            ;;
    esac
    shift words
    ((CURRENT--))
    _arguments -s -S : $specs
}}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _pykrun "$@"
else
    compdef _pykrun pykrun
fi
"""


def fish(commands: dict[str, list[Option]]) -> str:
    """The script for fish."""
    lines = ["# fish completion for pykrun, made by `pykrun completion fish`", "complete -c pykrun -f"]
    first = "__fish_use_subcommand"
    for name in commands:
        lines.append(f"complete -c pykrun -n {first} -a {name} -d {_fish_quoted(COMMANDS[name])}")
    for name, options in commands.items():
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        lines += [f"complete -c pykrun {seen} {_fish(option)}" for option in options]
        if name in ("run", "config", "exec"):
            lines.append(f"complete -c pykrun {seen} -F")
    return "\n".join(lines) + "\n"


def _fish(option: Option) -> str:
    actions = {
        "none": "",
        "folders": "-x -a '(__fish_complete_directories)'",
        "files": "-r -F",
        "vms": "-x -a '(pykrun ps --quiet 2> /dev/null)'",
        "any": "-x",
        "choices": f"-x -a '{' '.join(option.choices)}'",
    }
    names = [f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in option.words]
    action = actions[option.value] if option.words else actions[option.value].replace("-x ", "")
    return " ".join(filter(None, [*names, action, "-d " + _fish_quoted(option.help)]))


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
