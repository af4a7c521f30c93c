"""How a command says what is wrong: on standard error and, in runc's shape, in the log."""

from __future__ import annotations

import os

from pykrun.oci.options import Given

_settings = Given()


def set_up(settings: Given) -> None:
    """Take the global options: whether there is a log, and of which format."""
    global _settings
    _settings = settings


def complain(message: str) -> None:
    """Tell why this command fails."""
    _tell("error", message, message)


def warn(message: str) -> None:
    """Tell what went wrong without this command failing."""
    _tell("warning", message, f"warning: {message}")


def _tell(level: str, message: str, words: str) -> None:
    log, as_json = _settings.value("log"), _settings.value("log-format") == "json"
    # Programs put our name before what they find on standard error: who has a log of objects is one, and conmon.
    is_named_by_caller = "_OCI_SYNCPIPE" in os.environ or (log and as_json)
    line = f"{words}\n" if is_named_by_caller else f"pykrun-oci: {words}\n"
    try:
        os.write(2, line.encode(errors="surrogateescape"))
        if log:
            _log(log, as_json, level, message)
    except OSError:
        pass  # nobody to tell


def _log(path: str, as_json: bool, level: str, message: str) -> None:
    import time

    from pykrun.plain_json import dumps

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = message.encode(errors="surrogateescape").decode(errors="replace")
    line = (
        dumps({"level": level, "msg": text, "time": now})
        if as_json
        else f'time="{now}" level={level} msg={dumps(text)}'
    )
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(log, line.encode() + b"\n")
    finally:
        os.close(log)
