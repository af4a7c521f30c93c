"""The pytest plugin: VMs for tests, and tests whose body runs in one. docs/pytest.md is the guide.

A marked test is not run here: a pytest of the same interpreter runs it in the guest, over a read-only view of this
host, and its report comes back over the VM's standard output.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unittest
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import pykrun
from pykrun import PIPE, MicroVM, PykrunError, Result, Root, UsageError

INSIDE = "PYKRUN_PYTEST_INSIDE"
"""Set in the guest: there marked tests are run as they are."""
TIMEOUT = 300.0
PLACES = ("/tmp", "/var/tmp", "/run", "/mnt")
"""Where a guest's temporary files may be, unless something that it needs lies below."""
_REPORTS = pytest.StashKey[list[dict[str, Any]]]()
_PROGRAM = """
import json, os, sys
arguments, sys.path[:] = json.loads(sys.argv[1])
import pytest

class Guest:
    reports = []

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config):
        from pykrun.pytest_plugin import attend
        attend(config, self.reports)

channel = os.dup(1)
os.dup2(2, 1)
code = pytest.main(arguments, plugins=[Guest()])
with os.fdopen(channel, "w") as file:
    json.dump({"reports": Guest.reports, "code": int(code)}, file)
"""
"""The guest's pytest. Its reports go to what is standard output at first, the tests' own words to standard error.

Nothing of pykrun is imported before pytest does it: of plugins whose asserts it comes too late to rewrite it warns, and
where warnings are errors it ends there.
"""


class Factory:
    """Starts VMs that end with the test; what the fixture `microvm` is.

    Options are those of `pykrun.MicroVM`, over those of the marker `microvm_options` and of the ini file. Streams are
    pipes and carry text unless something else is said.
    """

    def __init__(self, options: Mapping[str, Any], stack: ExitStack) -> None:
        self._options = options
        self._stack = stack

    def __call__(self, command: Sequence[str], **options: Any) -> MicroVM:
        """Start a VM.

        :raise PykrunError: there can be no such VM.
        """
        pipes = {name: PIPE for name in ("stdin", "stdout", "stderr") if f"on_{name}" not in options}
        return self._stack.enter_context(MicroVM(command, **{"text": True, **pipes, **self._options, **options}))

    def run(self, command: Sequence[str], **options: Any) -> Result[Any]:
        """Run a command to its end, as `pykrun.run` does.

        :raise PykrunError: there can be no such VM, or it failed.
        """
        return pykrun.run(command, **{"text": True, "timeout": TIMEOUT, **self._options, **options})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what an ini file may say."""
    parser.addini("microvm_engine", "engine of VMs: auto, uml, qemu", default="auto")
    parser.addini("microvm_memory", "their memory in MiB", default="256")
    parser.addini("microvm_timeout", "seconds that a test in a guest has", default=str(TIMEOUT))
    parser.addini("microvm_args", "further arguments of the pytest in the guest", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "microvm(**options): run the test, fixtures and all, inside a VM")
    config.addinivalue_line("markers", "microvm_options(**options): what VMs of the fixture microvm have")


@pytest.fixture
def microvm(request: pytest.FixtureRequest) -> Iterator[Factory]:
    """`microvm(command, **options)` starts a VM that ends with the test; `microvm.run` runs a command to its end."""
    options = _ini_options(request.config)
    for marker in reversed(list(request.node.iter_markers("microvm_options"))):
        options |= marker.kwargs
    with ExitStack() as stack:
        yield Factory(options, stack)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that runs in the guest has its fixtures there."""
    for item in items:
        if isinstance(item, pytest.Function) and _is_for_a_guest(item):
            item.fixturenames = []  # not cleared: its neighbours may have the same list


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What cannot be taken to a guest must not run here either."""
    if _is_for_a_guest(item) and (
        not isinstance(item, pytest.Function) or (item.cls is not None and issubclass(item.cls, unittest.TestCase))
    ):
        pytest.fail("the marker microvm is for test functions and their classes, not for unittest's", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test in a guest."""
    if not _is_for_a_guest(pyfuncitem):
        return None
    __tracebackhide__ = True
    pyfuncitem.stash[_REPORTS] = _run_in_guest(pyfuncitem)
    return True


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Where a guest has reported, its word counts: it has the traceback, the output, the reason of a skip."""
    outcome = yield
    if call.when == "call" and _REPORTS in item.stash:
        outcome.force_result(_merge(item, outcome.get_result(), item.stash[_REPORTS]))


def _is_for_a_guest(item: pytest.Item) -> bool:
    return item.get_closest_marker("microvm") is not None and INSIDE not in os.environ


def _merge(item: pytest.Item, ours: pytest.TestReport, data: list[dict[str, Any]]) -> pytest.TestReport:
    """One report of the guest's three: that of the first phase that did not pass, else that of the test itself."""
    theirs = [item.config.hook.pytest_report_from_serializable(config=item.config, data=one) for one in data]
    bad = [one for one in theirs if not one.passed]
    chosen: pytest.TestReport = (bad or [one for one in theirs if one.when == "call"] or theirs)[0]
    reason: Any = chosen.longrepr
    if isinstance(reason, list):  # JSON knows no tuples: where and why a test was skipped
        path, line, why = reason
        chosen.longrepr = (path, line, why)
    chosen.nodeid, chosen.location, chosen.keywords = ours.nodeid, ours.location, ours.keywords
    chosen.when, chosen.duration = "call", ours.duration
    for name in ("start", "stop"):  # not in pytest 7
        if hasattr(ours, name):
            setattr(chosen, name, getattr(ours, name))
    chosen.sections = theirs[-1].sections or chosen.sections
    return chosen


def _run_in_guest(item: pytest.Function) -> list[dict[str, Any]]:
    """Run the test in a VM; return the reports of its phases."""
    __tracebackhide__ = True
    config = item.config
    options = _ini_options(config)
    timeout = float(config.getini("microvm_timeout"))
    for marker in reversed(list(item.iter_markers("microvm"))):
        options |= marker.kwargs
    timeout = float(options.pop("timeout", timeout))
    arguments = [*_arguments(item), *config.getini("microvm_args"), *options.pop("args", ())]
    paths = [os.path.abspath(path) for path in sys.path]
    place = _place_for_temporary_files([*paths, sys.prefix, sys.base_prefix, str(config.rootpath), str(item.path)])
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if "\0" not in name + value and name != "PYTEST_CURRENT_TEST"
        },
        INSIDE: "1",
        "TMPDIR": place,
        "PYTEST_DEBUG_TEMPROOT": place,
        "PYTHONDONTWRITEBYTECODE": "1",
        **options.pop("env", {}),
    }
    options.setdefault("root", Root("/", read_only=True).tmpfs(place))
    options.setdefault("workdir", str(config.invocation_params.dir))
    command = [sys.executable, "-c", _PROGRAM, json.dumps([arguments, paths])]
    failure = ""
    try:
        return _reports_of(pykrun.run(command, env=environment, timeout=timeout, **options))
    except PykrunError as error:
        failure = f"no VM to run the test in: {error}"
    except subprocess.TimeoutExpired as error:
        failure = f"the test did not end within {timeout:g} s\n{(error.stderr or b'').decode(errors='replace')}"
    pytest.fail(failure, pytrace=False)


def _reports_of(result: Result[Any]) -> list[dict[str, Any]]:
    __tracebackhide__ = True
    try:
        said: dict[str, Any] = json.loads(result.stdout or b"")
    except ValueError:
        said = {"reports": [], "code": None}
    reports: list[dict[str, Any]] = said["reports"]
    if not reports:
        errors = (result.stderr or b"").decode(errors="replace")
        reason = result.reason or f"pytest in the guest ended with {said['code']}, exit code {result.exit_code}"
        pytest.fail(f"the guest ran no test: {reason}\n{errors}", pytrace=False)
    return reports


def _ini_options(config: pytest.Config) -> dict[str, Any]:
    try:
        return {"engine": config.getini("microvm_engine"), "memory": int(config.getini("microvm_memory"))}
    except ValueError:
        raise UsageError("microvm_memory is a number of MiB") from None


def _arguments(item: pytest.Function) -> list[str]:
    """The command line of the guest's pytest: this one test, by the same ini file, and nothing written."""
    config = item.config
    words = ["-p", "no:cacheprovider", f"--rootdir={config.rootpath}"]
    if config.inipath is not None:
        words += ["-c", str(config.inipath)]
    if not config.pluginmanager.has_plugin("pykrun"):  # not installed, but named in a conftest or with -p
        words += ["-p", "pykrun.pytest_plugin"]
    own = item.nodeid.split("::", 1)[1]
    return [*words, f"{item.path}::{own}"]


def _place_for_temporary_files(needed: Sequence[str]) -> str:
    """A directory that can be hidden below a file system of the guest's own."""
    for place in PLACES:
        if os.path.isdir(place) and not any(Path(path).is_relative_to(place) for path in needed):
            return place
    return "/pykrun-tmp"


class _Reporter:
    """Collects what the guest's pytest has to report."""

    def __init__(self, config: pytest.Config, reports: list[dict[str, Any]]) -> None:
        self._config = config
        self._reports = reports

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            print(report.longreprtext, file=sys.stderr)


def attend(config: pytest.Config, reports: list[dict[str, Any]]) -> None:
    """Have the guest's pytest append its reports to a list, and write nothing on its own.

    Its terminal's plugin stays, with nothing behind it: pytest until 9 asks that how to show a failed comparison.
    """
    plugins = config.pluginmanager
    terminal, reporter = plugins.get_plugin("terminal"), plugins.get_plugin("terminalreporter")
    if terminal is not None and reporter is not None:
        plugins.unregister(reporter)
        plugins.register(terminal.TerminalReporter(config, io.StringIO()), "terminalreporter")
    plugins.register(_Reporter(config, reports))
