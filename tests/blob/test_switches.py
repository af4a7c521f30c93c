"""The switches: fixed at build, each choice a blob of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from krun_init import switches as guest
from pykrun.blob import archive, image, lookup, recipe
from pykrun.blob.switches import MODULE, Choice, chosen
from pykrun.blob.toolchain import Musl
from pykrun.errors import UsageError
from tests.blob.conftest import write_package

TEXT = (lookup.GUEST_FOLDER / "switches.py").read_text()


def constants(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    exec(text, {}, found)
    return found


def test_the_guests_defaults_are_the_recipes() -> None:
    assert Choice().rewrite(TEXT) == TEXT
    own = {name: value for name, value in vars(guest).items() if name.isupper()}
    assert own == {name.replace("-", "_").upper(): value for name, value in recipe.SWITCHES.items()} | {
        "BUILT": guest.BUILT
    }


def test_a_choice_is_written_into_the_module() -> None:
    found = constants(Choice((), 1_900_000_000).rewrite(TEXT))
    assert (found["TIMESYNC"], found["BUILT"]) == (False, 1_900_000_000)
    assert constants(Choice(("timesync",)).rewrite(TEXT))["TIMESYNC"] is True
    with pytest.raises(ValueError, match="unpack"):
        Choice().rewrite(TEXT.replace("TIMESYNC", "OTHER"))


def test_every_choice_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert chosen().suffix == ""
    assert chosen(without_parts=["timesync"]).suffix == "-plain"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert chosen().suffix == "-1700000000"
    assert chosen(without_parts=["timesync"]).suffix == "-plain-1700000000"
    assert chosen(["timesync"], ["timesync"]).parts == ()


@pytest.mark.parametrize("name", ["tee-root", "amd-sev", "tdx", "intel-tdx"])
def test_confidential_guests_have_one_code_by_whatever_name(name: str) -> None:
    choice = chosen([name])
    assert choice.parts == ("timesync", "tee-root")
    assert constants(choice.rewrite(TEXT))["TEE_ROOT"] is True


@pytest.mark.parametrize("date", ["now", "-1", "1.5", "12345678901", "\u0661"])
def test_a_date_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        chosen()


def test_a_switch_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="no switch 'selinux'") as caught:
        chosen(["selinux"])
    assert "timesync" in str(caught.value.hint)


def test_the_values_reach_the_blob(core: archive.Archive, musl: Musl, tmp_path: Path) -> None:
    main = "import posix\nfrom krun_init import switches\n"
    main += "def main(): posix.write(1, f'{switches.TIMESYNC} {switches.BUILT}'.encode())\n"
    package = write_package(tmp_path, {"main": main, "switches": TEXT})
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "switches").write_text(Choice((), 1_900_000_000).rewrite(TEXT))
    program = image.make_snapshot(package, core, musl, stage, tmp_path / "log", replaced=[f"{MODULE}=switches"])
    done = subprocess.run([program], capture_output=True, timeout=10)
    assert (done.stdout, done.stderr) == (b"False 1900000000", b"")
