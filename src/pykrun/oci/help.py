"""What `--help` says: of `pykrun-oci`, and of each of its verbs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pykrun.oci.options import Table

_EXAMPLES = {
    "": (
        "podman --runtime pykrun-oci run --rm debian uname -r",
        "ctr run --rm --runc-binary pykrun-oci localhost/app:1 one uname -r",
        "pykrun-oci spec && pykrun-oci run one  # in a folder with the root in rootfs",
    ),
    "create": ("pykrun-oci create --bundle ./bundle --pid-file pid one",),
    "start": ("pykrun-oci start one",),
    "run": ("pykrun-oci run --bundle ./bundle one", "pykrun-oci run --detach --bundle ./bundle one"),
    "state": ("pykrun-oci state one | jq -r .status",),
    "exec": (
        "pykrun-oci exec one uname -r",
        "pykrun-oci exec --tty --user 1000:1000 --cwd /srv one /bin/sh",
        "pykrun-oci exec --process process.json --detach --pid-file pid one",
    ),
    "pause": ("pykrun-oci pause one",),
    "resume": ("pykrun-oci resume one",),
    "kill": ("pykrun-oci kill one", "pykrun-oci kill one KILL"),
    "delete": ("pykrun-oci delete one", "pykrun-oci delete --force one"),
    "list": ("pykrun-oci list", "pykrun-oci list --quiet"),
    "ps": ("pykrun-oci ps one", "pykrun-oci ps one -o pid,args"),
    "events": ("pykrun-oci events --stats one",),
    "update": ("pykrun-oci update --cpu-quota 50000 --cpu-period 100000 one",),
    "features": ("pykrun-oci features | jq .hooks",),
    "spec": ("pykrun-oci spec --bundle ./bundle",),
}


def of_all(introduction: str, verbs: Mapping[str, str], table: Table) -> str:
    """The help of the command.

    :param verbs: each with what it does.
    """
    return (
        f"usage: pykrun-oci [OPTION...] COMMAND [OPTION...] [CONTAINER]\n\n{introduction}\n\n"
        f"commands:\n{_rows(verbs)}\noptions:\n{_options(table)}{_examples('')}\n"
        "`pykrun-oci COMMAND --help` tells more.\n"
    )


def of_verb(verb: str, words: str, text: str, table: Table) -> str:
    """The help of a verb.

    :param words: what follows it.
    :param text: what it does.
    """
    usage = f"pykrun-oci {verb} {words}".rstrip()
    return f"usage: {usage}\n\n{text[0].upper()}{text[1:]}.\n\noptions:\n{_options(table)}{_examples(verb)}"


def _options(table: Table) -> str:
    rows = {}
    for names, (kind, text) in table.items():
        words = ", ".join(("--" if len(name) > 1 else "-") + name for name in names.split(","))
        rows[words + (" VALUE" if kind else "")] = text
    return _rows(rows)


def _rows(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows)) + 2
    return "".join(f"  {name:<{width}}{text}\n" for name, text in rows.items())


def _examples(verb: str) -> str:
    return "\nexamples:\n" + "".join(f"  {example}\n" for example in _EXAMPLES[verb])
