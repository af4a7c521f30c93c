"""The verb `list`."""

from __future__ import annotations

import os

from pykrun.errors import UsageError
from pykrun.oci.options import FLAG, VALUE, Given, Table
from pykrun.oci.state import Container, names, shown
from pykrun.plain_json import dumps

OPTIONS: dict[str, tuple[str, Table]] = {
    "list": (
        "[OPTION...]",
        {"format,f": (VALUE, "table or json (table)"), "quiet,q": (FLAG, "ids only")},
    )
}
_COLUMNS = (("ID", "id"), ("PID", "pid"), ("STATUS", "status"), ("BUNDLE", "bundle"), ("CREATED", "created"))


def list(root: str, _settings: Given, options: Given) -> int:  # verbs are found by their names
    """Print the containers."""
    containers = []
    for name in names(root):
        try:
            kept = Container(root, name).read()
        except UsageError:
            continue  # deleted meanwhile
        containers.append(shown(kept))
    form = options.value("format", "table")
    if form not in ("table", "json"):
        raise UsageError(f"there is no format {form!r}", "there are table and json")
    if options.flag("quiet"):
        text = "".join(f"{kept['id']}\n" for kept in containers)
    elif form == "json":
        text = dumps(containers) + "\n"
    else:
        rows = [tuple(title for title, _ in _COLUMNS)]
        rows += [tuple(str(kept[key]) for _, key in _COLUMNS) for kept in containers]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        text = "".join(
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() + "\n"
            for row in rows
        )
    os.write(1, text.encode())
    return 0
