"""The pytest plugin, in pytests of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import ROOT, cache_folder

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.uml
CACHE = str(cache_folder())
"""Before pytester makes an empty home ours."""

INI = "[pytest]\nmicrovm_engine = uml\nmicrovm_timeout = 120\nfilterwarnings = error\n"
"""Warnings are errors: pytest warns of a plugin that was imported before pytest does it."""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    pytester.makeini(INI + "addopts = -p pykrun.pytest_plugin\n")

    def run(*words: str) -> pytest.RunResult:
        return pytester.run(sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *words, timeout=240)

    return run


def test_the_body_runs_in_a_guest(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        import os, pytest
        @pytest.fixture
        def where():
            return os.uname().nodename, os.getpid()
        """
    )
    pytester.makepyfile(
        """
        import os, socket, sys, pytest, helper
        here = os.environ.get("PYKRUN_PYTEST_INSIDE")

        @pytest.mark.microvm(hostname="guest")
        class TestIn:
            @pytest.mark.parametrize("number", ["a b::c"])
            def test_good(self, number, where, tmp_path):
                print("said", number, helper.WORD)
                print("complained", file=sys.stderr)
                assert here == "1" and where[0] == "guest" and number == "a b::c"
                (tmp_path / "file").write_text("written")
                with pytest.raises(OSError):
                    open(__file__, "a")
                socket.sethostname("changed")

            def test_bad(self, where):
                expected = "host"
                assert where[0] == expected, "as it should fail"

            def test_skip(self):
                pytest.skip("not in here")

            def test_comparison(self, request):
                request.config.get_terminal_writer().line()  # pytest 9.0 asks it how to show one
                assert 1 + 1 == 3

        @pytest.mark.microvm(memory=1)
        def test_no_vm():
            pass

        @pytest.mark.microvm
        def test_dies():
            os._exit(3)

        def test_here(where):
            assert here is None and where[0] == os.uname().nodename
        """
    )
    pytester.makepyfile(helper="WORD = 'helped'")
    result = run()
    result.assert_outcomes(passed=2, failed=4, skipped=1)
    text = result.stdout.str()
    for words in (
        "where = ('guest', ",
        'assert where[0] == expected, "as it should fail"',
        "E       AssertionError: as it should fail",
        "E       assert 'guest' == 'host'",
        "E       assert (1 + 1) == 3",
        "test_the_body_runs_in_a_guest.py:",
        "no VM to run the test in: ",
        "the guest ran no test: pytest in the guest ended with None, exit code 3",
        "said a b::c helped",
        "complained",
        "SKIPPED [1] test_the_body_runs_in_a_guest.py:",
        "not in here",
    ):
        assert words in text, words
    assert text.count("test session starts") == 1, "of a guest that died too, only its own words"


@pytest.mark.parametrize("how", ["-p", "conftest"])
def test_where_the_plugin_is_named(pytester: pytest.Pytester, run: Run, how: str) -> None:
    pytester.makeini(INI)
    if how == "conftest":
        pytester.makeconftest("pytest_plugins = ['pykrun.pytest_plugin']")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.microvm
        def test_bad():
            assert 1 + 1 == 3
        """
    )
    result = run(*(["-p", "pykrun.pytest_plugin"] if how == "-p" else []))
    result.assert_outcomes(failed=1)
    assert "E       assert (1 + 1) == 3" in result.stdout.str()


@pytest.mark.full
@pytest.mark.parametrize("version", ["7.2.*", "8.*", "9.0.*"])
def test_another_pytest(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    """Of the Python Package Index."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path), f"pytest=={version}"]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if installed.returncode != 0:
        pytest.skip(f"no pytest {version} from the package index: {installed.stderr.strip()[-200:]}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{tmp_path}")
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.microvm
        def test_bad():
            assert 1 + 1 == 3

        @pytest.mark.microvm
        def test_good():
            assert (pytest.__version__ + ".").startswith("{version.rstrip("*")}")
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1)
    assert "E       assert (1 + 1) == 3" in result.stdout.str()


@pytest.mark.full
def test_rarer_ends(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.microvm
        @pytest.mark.xfail(strict=True)
        def test_xfail():
            assert "PYKRUN_PYTEST_INSIDE" not in os.environ

        @pytest.mark.microvm(timeout=8)
        def test_hangs():
            while True:
                pass

        @pytest.mark.microvm
        def test_error(missing_fixture):
            pass
        """
    )
    result = run()
    result.assert_outcomes(failed=2, xfailed=1)
    assert "did not end within 8 s" in result.stdout.str()
    assert "fixture 'missing_fixture' not found" in result.stdout.str()


def test_the_fixture_ends_its_vms(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import os, pytest
        pids = []

        @pytest.mark.microvm_options(root="/", read_only=True, hostname="a-name")
        def test_start(microvm):
            vm = microvm(["/bin/sh", "-c", "hostname; read line; echo $line >&2; exec sleep 1000"])
            pids.append(vm.pid)
            assert vm.stdout.readline() == "a-name\\n"
            vm.stdin.write("hello\\n")
            vm.stdin.flush()
            assert vm.stderr.readline() == "hello\\n"
            assert microvm.run(["/bin/hostname"], hostname="other").stdout == "other\\n"
            microvm(["/bin/sleep", "1000"])

        def test_ended():
            assert not os.path.exists(f"/proc/{pids[0]}")
        """
    )
    run().assert_outcomes(passed=2)


def test_what_cannot_be_taken_to_a_guest_does_not_run_here(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest, unittest

        @pytest.mark.microvm
        class TestIt(unittest.TestCase):
            def test_it(self):
                pass

        @pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.microvm(memory=1))])
        def test_one_of_two(number, tmp_path):
            assert number == 1 and tmp_path.exists()
        """
    )
    result = run()
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert "not for unittest's" in result.stdout.str()


def test_the_example(pytester: pytest.Pytester, run: Run) -> None:
    shutil.copy(ROOT / "examples" / "test_kernel.py", pytester.path)
    run("test_kernel.py").assert_outcomes(passed=4)


def test_where_a_guest_puts_its_temporary_files(tmp_path: Path) -> None:
    from pykrun.pytest_plugin import PLACES, _place_for_temporary_files

    assert _place_for_temporary_files(["/usr/lib"]) == PLACES[0]
    assert _place_for_temporary_files(["/tmp/x", "/usr"]) == PLACES[1]
    assert _place_for_temporary_files(["/tmp", "/var/tmp/a", "/run/b", "/mnt"]) == "/pykrun-tmp"
