"""The workload's environment, host name, and what of the kernel's environment is meant for init."""

from __future__ import annotations

import sys

from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from krun_init.config import Config
    from krun_init.start import Start

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What programs are looked for in when nobody said."""

CONTROL_WORDS = frozenset(
    (  # noqa: SIM905
        "KRUN_INIT KRUN_INIT_PID1 KRUN_INIT_TRACE KRUN_WORKDIR KRUN_HOME KRUN_TERM KRUN_RLIMITS KRUN_CONFIG KRUN_DHCP "
        "KRUN_BLOCK_ROOT_DEVICE KRUN_BLOCK_ROOT_FSTYPE KRUN_BLOCK_ROOT_OPTIONS KRUN_STAGE1"
    ).split()
)
"""They count only from the kernel command line, and the workload never sees them."""

_LONGEST_HOSTNAME = 255 if sys.platform.startswith("freebsd") else 64


def split(variables: Mapping[bytes, bytes]) -> tuple[dict[str, str], dict[str, str]]:
    """Part what the kernel handed over into control words and plain variables."""
    words: dict[str, str] = {}
    plain: dict[str, str] = {}
    for key, value in variables.items():
        name = str(key, "utf-8", "surrogateescape")
        (words if name in CONTROL_WORDS else plain)[name] = str(value, "utf-8", "surrogateescape")
    return words, plain


def compose(words: Mapping[str, str], kernel: Mapping[str, str], start: Start, config: Config) -> dict[str, str]:
    """The workload's environment.

    With start data the kernel contributes only its HOME and TERM: whatever else it hands over are words of its command
    line that it did not know, not variables. The config sets what is unset, and HOME and TERM in any case.
    """
    if start.present:
        merged = {name: kernel[name] for name in ("HOME", "TERM") if name in kernel}
    else:
        merged = dict(kernel)
    asked = dict(start.env)
    merged.update(asked)
    for key, value in config.env:
        if key in ("HOME", "TERM"):
            merged[key] = value
        else:
            merged.setdefault(key, value)
    for key in ("HOME", "TERM"):
        value_asked = words.get("KRUN_" + key, asked.get(key))
        if value_asked is not None:
            merged[key] = value_asked
    merged.setdefault("PATH", PATH)
    return merged


def set_hostname(
    sethostname: Callable[[str], None],
    variables: Mapping[str, str],
    start: Start,
    config: Config,
    offered: str | None = None,
) -> None:
    """Name the machine: start data, then the config, then HOSTNAME, then what DHCP offers, else localhost.

    :param sethostname: the kernel's call.
    :raise InitError: the kernel does not take the name.
    """
    name = start.hostname or config.hostname or variables.get("HOSTNAME") or offered or "localhost"
    try:
        sethostname(name)
    except OSError as error:
        raise InitError(f"host name {name!r}: {reason_of(error)} (at most {_LONGEST_HOSTNAME} bytes)") from None
