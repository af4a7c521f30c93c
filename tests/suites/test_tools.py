"""Public tools that look whether what they wrote is there, over `pykrun mount`: seconds each, minutes with --full."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.suites import trees
from tests.suites.conftest import Share, program, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here"),
]

FIO = {
    "random": ("--rw=randrw", "--bs=4k", "--ioengine=psync"),
    "large": ("--rw=write", "--bs=256k", "--ioengine=psync"),
    "mapped": ("--rw=randwrite", "--bs=4k", "--ioengine=mmap"),
    "past-the-cache": ("--rw=randwrite", "--bs=64k", "--ioengine=libaio", "--direct=1", "--iodepth=8"),
    "synced": ("--rw=randwrite", "--bs=16k", "--ioengine=sync", "--fsync=8"),
}


@pytest.mark.parametrize("kind", FIO)
@pytest.mark.parametrize("megabytes", [4, pytest.param(256, marks=pytest.mark.full)])
def test_fio_verifies(share: Share, kind: str, megabytes: int) -> None:
    common = ("--name=v", "--directory=.", f"--size={megabytes}m", "--numjobs=2", "--verify=crc32c", "--verify_fatal=1")
    run([program("fio"), *common, *FIO[kind], "--group_reporting"], share.target, 600)


STRESSORS = [
    "chmod",
    "chown",
    "dir",
    "dirdeep",
    "dirmany",
    "dentry",
    "dup",
    "fallocate",
    "fcntl",
    "fiemap",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "getdent",
    "hdd",
    "inotify",
    "iomix",
    "lease",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "open",
    "readahead",
    "rename",
    "seek",
    "sendfile",
    "splice",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "xattr",
    "copy-file",
    "access",
]


@pytest.mark.parametrize("seconds", [4, pytest.param(120, marks=pytest.mark.full)])
def test_stress_ng(share: Share, seconds: int) -> None:
    """Its file-system stressors, all at the same time, with its own verification."""
    stressors = [word for name in STRESSORS for word in (f"--{name}", "1")]
    command = [program("stress-ng"), "--temp-path", ".", "--verify", "--oom-avoid", "--timeout", str(seconds)]
    run([*command, *stressors], share.target, 120 + 4 * seconds)
    assert os.listdir(share.source) == []


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.full)])
def test_dbench(share: Share, seconds: int) -> None:
    load = "/usr/share/dbench/client.txt"
    told = run([program("dbench"), "-t", str(seconds), "-c", load, "-D", ".", "4"], share.target, 120 + seconds)
    assert "Throughput" in told


@pytest.mark.full
def test_bonnie(share: Share) -> None:
    command = [program("bonnie++"), "-d", ".", "-s", "64", "-r", "32", "-n", "4", "-u", "root", "-q"]
    run(command, share.target, 900)


def sample(full: bool) -> Path:
    """A tree with links, programs and many small files: the machine's own."""
    return (
        Path("/usr") if full else Path("/usr/share/perl5" if os.path.isdir("/usr/share/perl5") else "/usr/lib/python3")
    )


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.full)])
def test_tar_there_and_back(share: Share, top: Path, full: bool) -> None:
    """Content and metadata are the same on the host, and in what is packed again."""
    source = sample(full)
    packed = top / "packed.tar"
    names = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"
    words = ["--xattrs", "--acls", "--sort=name", "--numeric-owner", names]
    run(["tar", "-C", source, *words, "-cf", packed, "."], top, 1200)
    (share.target / "tree").mkdir()
    run(["tar", "-C", share.target / "tree", "--same-owner", "-p", *words, "-xf", packed], top, 2400)
    assert trees.differences(source, share.source / "tree") == []
    assert trees.differences(source, share.target / "tree") == []
    again = top / "again.tar"
    run(["tar", "-C", share.target / "tree", *words, "-cf", again, "."], top, 1200)
    assert again.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.full)])
def test_rsync_there_and_back(share: Share, top: Path, full: bool) -> None:
    rsync = program("rsync")
    source = sample(full)
    run([rsync, "-aHAX", "--numeric-ids", f"{source}/", share.target / "tree"], top, 2400)
    told = run([rsync, "-aHAXnci", "--numeric-ids", "--delete", f"{source}/", share.target / "tree"], top, 2400)
    assert told == ""
    run([rsync, "-aHAX", "--numeric-ids", f"{share.target}/tree/", top / "back"], top, 2400)
    assert trees.differences(source, top / "back") == []


@pytest.mark.parametrize("commits", [4, pytest.param(200, marks=pytest.mark.full)])
def test_git(share: Share, commits: int) -> None:
    """A repository made, filled, packed, packed again and cloned."""
    settings = ("user.name=x", "user.email=x@example.com", "gc.auto=0", "safe.directory=*")
    git = [program("git"), *(word for setting in settings for word in ("-c", setting))]
    here = share.target / "one"
    run([*git, "init", "-q", here], share.target)
    for number in range(commits):
        for name in range(20):
            (here / f"file{name}").write_bytes(f"{number} {name * number}\n".encode() * 50 * (name + 1))
        run([*git, "add", "-A"], here)
        run([*git, "commit", "-q", "-m", str(number)], here)
        if number % 3 == 2:
            run([*git, "repack", "-q"], here)
    run([*git, "repack", "-adfq"], here)
    run([*git, "gc", "-q", "--prune=now"], here)
    run([*git, "fsck", "--full", "--strict"], here)
    run([*git, "clone", "-q", "--no-hardlinks", here, share.target / "two"], share.target)
    assert run([*git, "status", "--porcelain"], share.target / "two") == ""
    assert run([*git, "fsck", "--full"], share.source / "one") == ""


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_sqlite(share: Share, mode: str) -> None:
    """Several processes write to one database; nothing is lost, and it is whole on the host too."""
    path = share.target / "data.db"
    run([program("python3"), "-c", _SQLITE, str(path), mode], share.target, 300)
    for place in (share.target, share.source):
        shutil.copy(place / "data.db", share.source / "copy.db")
        run([program("python3"), "-c", _CHECK, str(share.source / "copy.db")], share.target)


_SQLITE = """
import os, sqlite3, sys
path, mode = sys.argv[1:]
first = sqlite3.connect(path)
found = first.execute(f"pragma journal_mode={mode}").fetchone()[0]
assert found == mode, found
first.execute("create table t (who int, n int, text)")
first.commit(); first.close()
children = []
for who in range(3):
    child = os.fork()
    if not child:
        one = sqlite3.connect(path, timeout=120)
        for n in range(30):
            with one:
                one.execute("begin immediate")
                one.execute("insert into t values (?, ?, ?)", (who, n, "x" * 500))
        one.close()
        os._exit(0)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
one = sqlite3.connect(path)
assert one.execute("select count(*), count(distinct who * 1000 + n) from t").fetchone() == (90, 90)
if mode == "wal":
    one.execute("pragma wal_checkpoint(truncate)")
one.close()
"""
_CHECK = """
import sqlite3, sys
one = sqlite3.connect(sys.argv[1])
assert one.execute("pragma integrity_check").fetchone() == ("ok",)
assert one.execute("select count(*) from t").fetchone() == (90,)
"""


def test_dpkg(share: Share, top: Path) -> None:
    """Packages unpacked, replaced and removed into a root of their own, as apt has it done."""
    dpkg, deb = program("dpkg"), program("dpkg-deb", "dpkg")
    for version in ("1", "2"):
        tree = top / f"package{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: thing\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@example.com>\nDescription: x\n"
        )
        for number in range(150):
            (tree / f"usr/share/thing/{number % 7}").mkdir(parents=True, exist_ok=True)
            (tree / f"usr/share/thing/{number % 7}/{number}").write_text(f"{version} {number}\n")
        (tree / f"usr/share/thing/only{version}").symlink_to("0/0")
        os.link(tree / "usr/share/thing/1/1", tree / "usr/share/thing/hard")
        run([deb, "-b", "--root-owner-group", tree, top / f"thing{version}.deb"], top)
    root = share.target / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("")
    words = [dpkg, f"--root={root}", "--force-not-root,script-chrootless", f"--log={top}/log"]
    for version in ("1", "2"):
        run([*words, "-i", top / f"thing{version}.deb"], top)
        host = share.source / "root/usr/share/thing"
        assert (host / "5/145").read_text() == f"{version} 145\n"
        assert sorted(host.glob("only*")) == [host / f"only{version}"]
        assert (host / "hard").stat().st_ino == (host / "1/1").stat().st_ino
    run([*words, "-V", "thing"], top)
    run([*words, "--purge", "thing"], top)
    assert not (share.source / "root/usr/share/thing").exists()
