"""Public tools at work in a guest: a program for it. One line of JSON for each, with what went wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.suites import trees

GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "gc.auto=0", "-c", "safe.directory=*")


def run(top: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=top, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.returncode, done.stdout[-1500:], done.stderr[-1500:])


def fio(top: Path) -> None:
    common = ("--size=1m", "--directory=.", "--verify=crc32c", "--verify_fatal=1", "--thread")
    run(top, "fio", "--name=v", "--rw=randrw", "--bs=4k", "--ioengine=psync", *common)


def git(top: Path) -> None:
    run(top, *GIT, "init", "-q", "one")
    for number in range(3):
        for name in range(5):
            (top / f"one/{name}").write_text(f"{number} {name}\n" * 100)
        run(top / "one", *GIT, "add", "-A")
        run(top / "one", *GIT, "commit", "-q", "-m", "x")
    run(top / "one", *GIT, "repack", "-adfq")
    run(top / "one", *GIT, "fsck", "--full", "--strict")


def tar(top: Path) -> None:
    """A tree with every kind of thing in it."""
    (top / "in/deep/er").mkdir(parents=True)
    for number in range(100):
        (top / f"in/deep/{number}").write_bytes(os.urandom(number * 37))
        os.chown(top / f"in/deep/{number}", number, number * 2)
        os.utime(top / f"in/deep/{number}", ns=(number, 10**18 + number))
    os.link(top / "in/deep/5", top / "in/hard")
    (top / "in/soft").symlink_to("deep/5")
    os.mkfifo(top / "in/fifo")
    (top / "in/deep/7").chmod(0o4751)
    run(top, "tar", "-C", "in", "--format=posix", "--numeric-owner", "-cf", "packed.tar", ".")
    (top / "out").mkdir()
    run(top, "tar", "-C", "out", "--same-owner", "-pxf", "packed.tar")
    assert trees.differences(top / "in", top / "out") == []


def rsync(top: Path) -> None:
    shutil.copytree("/etc/default", top / "in")
    run(top, "rsync", "-aHAX", "--numeric-ids", "in/", "out")
    assert trees.differences(top / "in", top / "out") == []


def sqlite(top: Path) -> None:
    import sqlite3

    one = sqlite3.connect(top / "data.db")
    assert one.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    one.execute("create table t (n int)")
    for number in range(50):
        with one:
            one.execute("insert into t values (?)", (number,))
    other = sqlite3.connect(top / "data.db")
    assert other.execute("select sum(n) from t").fetchone() == (1225,)
    assert other.execute("pragma integrity_check").fetchone() == ("ok",)
    other.close()
    one.close()


def stress(top: Path) -> None:
    """Those of which ten rounds are short: one of `link` makes 8,192 links."""
    words = [
        word
        for name in ("chmod", "dir", "rename", "seek", "utime")
        for word in (f"--{name}", "1", f"--{name}-ops", "10")
    ]
    run(top, "stress-ng", "--temp-path", ".", "--verify", "--timeout", "10", *words)


JOBS: dict[str, Callable[[Path], None]] = {
    "fio": fio,
    "git": git,
    "tar": tar,
    "rsync": rsync,
    "sqlite": sqlite,
    "stress-ng": stress,
}


def main(top: str) -> None:
    os.environ["HOME"] = top
    for name, job in JOBS.items():
        folder = Path(top, name)
        folder.mkdir()
        wrong = ""
        try:
            if name in ("fio", "git", "rsync", "stress-ng") and shutil.which(name) is None:
                wrong = "missing"
            else:
                job(folder)
        except BaseException:
            wrong = traceback.format_exc()
        print(json.dumps([name, wrong]), flush=True)


def submount(top: str) -> None:
    """Say what the guest sees of the host's file systems below the volume."""
    below = os.path.join(top, "below")
    names = os.listdir(below)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    same = os.stat(top).st_dev == os.stat(below).st_dev
    Path(below, "written").write_text("inside")
    crossed = ""
    try:
        os.rename(os.path.join(below, "written"), os.path.join(top, "written"))
    except OSError as error:
        crossed = os.strerror(error.errno or 0)
    print(json.dumps({"names": names, "mounted": below in mounts, "one device": same, "crossing": crossed}))


def until_refused(top: str, uid: int) -> list[int]:
    """Write to a new file of a user's until there is an error; return how much was written, and the error."""
    try:
        file = os.open(os.path.join(top, "big"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as error:  # btrfs counts names too
        return [0, error.errno or -1]
    os.fchown(file, uid, uid)
    written = code = 0
    while not code:
        try:
            written += os.write(file, (b"%08d" % written).ljust(4096, b"."))
        except OSError as error:
            code = error.errno or -1
    os.fsync(file)
    os.close(file)
    return [written, code]


def quota(top: str, uid: int) -> None:
    """Say what a quota did."""
    print(json.dumps(until_refused(top, uid)))
