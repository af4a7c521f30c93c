"""What a recording cannot show of FreeBSD's init: its C file, the numbers it has from headers, what a blob holds."""

from __future__ import annotations

import ast
import errno
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from krun_init import rlimits
from pykrun.blob import freeze, recipe
from tests.guest.freebsd import CALLS
from tests.support.cross import compiler_for

from krun_init import freebsd_network, freebsd_system  # isort: skip - after the recording, which brings the seam

GUEST = Path(__file__).resolve().parents[2] / "src" / "krun_init"
TARGETS = ("x86_64-freebsd", "aarch64-freebsd")

HEADERS = """
#include <errno.h>
#include <signal.h>
#include <sys/param.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sockio.h>
#include <sys/ttycom.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/in_var.h>
#include <stddef.h>
#include <kenv.h>
"""


@pytest.fixture(scope="session")
def zig() -> list[str]:
    """The command of a C compiler that has FreeBSD's headers."""
    return [str(compiler_for("freebsd-x86_64").program), "cc"]


@pytest.fixture(autouse=True)
def zig_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "zig"))


def compile_c(zig: list[str], target: str, source: Path, folder: Path, *options: str) -> None:
    command = [*zig, "-target", target, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command += ["-Wno-missing-field-initializers", *options, "-c", str(source), "-o", str(folder / "out.o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_seam_compiles(zig: list[str], target: str, tmp_path: Path) -> None:
    compile_c(zig, target, GUEST / "_freebsd.c", tmp_path, f"-I{sysconfig.get_path('include')}")


def facts() -> dict[str, int]:
    """Every number that the Python code has from a header, by its C expression."""
    found = {name: value for name, value in vars(freebsd_system.Facts).items() if name.isupper()}
    found |= rlimits.FREEBSD
    found |= {
        "KENV_MVALLEN": 128,
        "IFNAMSIZ": len(freebsd_network._NAME),
        "sizeof(struct ifreq)": freebsd_network._IFREQ_SIZE,
        "offsetof(struct ifreq, ifr_flags)": 16,
        "sizeof(((struct ifreq *)0)->ifr_flags)": 2,
        "sizeof(struct in_aliasreq)": 68,
        "offsetof(struct in_aliasreq, ifra_mask)": 48,
        "sizeof(struct sockaddr_in)": 16,
        "offsetof(struct sockaddr_in, sin_addr)": 4,
        "AF_INET": 2,
        "SIGKILL": 9,
        "ENOENT": errno.ENOENT,
    }
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_are_those_of_the_headers(zig: list[str], target: str, tmp_path: Path) -> None:
    checks = [f'_Static_assert((unsigned long)({name}) == {value}ul, "{name}");' for name, value in facts().items()]
    assert len(checks) > 30
    source = tmp_path / "numbers.c"
    source.write_text(HEADERS + "\n".join(checks))
    compile_c(zig, target, source, tmp_path)


def test_seam_has_what_is_declared_and_used() -> None:
    c_file = re.findall(r'^    \{"(\w+)", freebsd_\w+, METH', (GUEST / "_freebsd.c").read_text(), re.MULTILINE)
    declared = [
        node.name for node in ast.parse((GUEST / "_freebsd.pyi").read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    used = re.findall(r"\b_freebsd\.(\w+)", "".join(path.read_text() for path in GUEST.glob("*.py")))
    assert sorted(c_file) == sorted(declared) == sorted(used) == sorted(CALLS)


def test_only_the_system_calls_the_kernel() -> None:
    """What the recording does not see, no test would see: constants and helpers of posix only, elsewhere."""
    harmless = {"O_\\w+", "WNOHANG", "WIF\\w+", "WTERMSIG", "WEXITSTATUS", "environ"}
    for path in GUEST.glob("freebsd*.py"):
        used = set(re.findall(r"\b(?:posix|fcntl|_socket|time|_freebsd)\.(\w+)", path.read_text()))
        if path.name != "freebsd_system.py":
            assert not {name for name in used if not any(re.fullmatch(one, name) for one in harmless)}, path.name


# -- what is frozen for which system -------------------------------------------------------------------------------


def frozen(system: str) -> set[str]:
    sources = freeze.read_package(str(GUEST))
    allowed = set(recipe.importable(system).split(","))
    assert freeze.freeze(sources, recipe.ENTRIES[system], allowed)
    return freeze.reached(sources, recipe.ENTRIES[system])


def test_neither_system_has_the_others_init() -> None:
    linux, freebsd = frozen("linux"), frozen("freebsd")
    assert {name for name in linux if "freebsd" in name} == set()
    assert {"krun_init", "krun_init.main", "krun_init.mounts", "krun_init.control"} <= linux
    own = {f"krun_init.{path.stem}" for path in GUEST.glob("freebsd*.py")}
    assert own <= freebsd
    assert not {"krun_init.main", "krun_init.mounts", "krun_init.control", "krun_init.launch"} & freebsd
    assert {"krun_init.config", "krun_init.environment", "krun_init.rlimits", "krun_init.workload"} <= linux & freebsd


@pytest.mark.parametrize(("system", "seam"), [("linux", "_freebsd"), ("freebsd", "_linux")])
def test_the_others_seam_is_refused(system: str, seam: str) -> None:
    sources = {"krun_init": "", "krun_init.main": f"from krun_init import {seam}\n"}
    with pytest.raises(freeze.FreezeError, match=f"krun_init.main, line 1: imports krun_init.{seam}, which is not"):
        freeze.freeze(sources, "krun_init.main", set(recipe.importable(system).split(",")))


def test_what_is_not_imported_is_not_frozen() -> None:
    sources = {
        "krun_init": "",
        "krun_init.main": "from krun_init import one\nfrom krun_init.two import x\n",
        "krun_init.one": "def late():\n    import krun_init.three\n",
        "krun_init.two": "if TYPE_CHECKING:\n    from krun_init import five\n",
        "krun_init.three": "from . import four\n",
        "krun_init.four": "",
        "krun_init.five": "import os\n",
    }
    found = freeze.reached(sources, "krun_init.main")
    assert sorted(found) == sorted(set(sources) - {"krun_init.five"})
