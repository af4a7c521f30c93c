"""`pykrun mount`: real mounts, as root and as nobody, and every way in which they end."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.sandbox import landlock
from tests.cli.servers import Running, wait_until_gone
from tests.sandbox.prison import PYTHON
from tests.support.command import ROOT, Pykrun, wait_until

NOBODY = 65534
fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")
root = pytest.mark.root
helper = pytest.mark.skipif(shutil.which("fusermount3") is None, reason="no fusermount3 (apt-get install fuse3)")
as_nobody = pytest.mark.skipif(PYTHON is None, reason="an ordinary user can run no Python here")


@pytest.fixture
def at() -> Iterator[Path]:
    """A mount point of a place of its own, for all, from which nothing is left mounted."""
    place = Path(tempfile.mkdtemp(prefix="pkm"))
    place.chmod(0o755)
    (place / "m").mkdir()
    yield place / "m"
    left = [
        row
        for row in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        if f" {place}" in row
    ]
    for _ in left:
        subprocess.run(["umount", "-l", place / "m"], check=False)
    shutil.rmtree(place)
    assert not left


def is_mounted(at: Path) -> bool:
    """Also for a dead mount, which cannot be asked itself."""
    return f" {at} " in Path("/proc/self/mountinfo").read_text(errors="surrogateescape")


def mount(pykrun: Pykrun, at: Path, *more: str) -> Running:
    return Running(pykrun, ["mount", str(at), *more])


NULL = ("--null", "--text", "/hello=world")


@fuse
@root
def test_serves_until_it_is_unmounted(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"secret")
    words = ("--file", f"/bin/prog={shutil.which('true')}", "--secret", f"/key={tmp_path}/key", "--dir", "/d:700")
    with mount(run_pykrun, at, *NULL, *words, "--stats") as running:
        running.wait_for(f"pykrun: mounted on {at}\n")
        assert sorted(os.listdir(at)) == ["bin", "d", "hello"]
        assert (at / "hello").read_bytes() == b"world"
        assert subprocess.run([at / "bin/prog"], check=False).returncode == 0
        assert (at / "key").read_bytes() == b"secret"
        assert not (at / "key").exists()
        assert (at / "d").stat().st_mode & 0o777 == 0o700
        family = running.family()
        assert len(family) == 3
        subprocess.run(["umount", at], check=True)
        assert running.end() == 0
        assert "\npykrun: requests: " in running.said
        assert "pykrun:   LOOKUP " in running.said
    wait_until_gone(family)


@fuse
@root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(run_pykrun: Pykrun, at: Path, number: int) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        family = running.family()
        assert running.end(number) == 0
        assert not is_mounted(at)
        assert running.said == f"pykrun: mounted on {at}\n"
    wait_until_gone(family)


@fuse
@root
def test_a_signal_while_it_is_used_unmounts_lazily(run_pykrun: Pykrun, at: Path) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        with (at / "hello").open("rb", buffering=0):
            assert running.end(signal.SIGTERM) == 0
            assert not is_mounted(at)
            assert os.listdir(at) == []


@fuse
@root
def test_a_second_signal_ends_one_that_hangs(run_pykrun: Pykrun, at: Path) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        with (at / "hello").open("rb", buffering=0):
            family = running.family()
            os.kill(running.server(), signal.SIGSTOP)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert running.process.poll() is None  # it waits for what it stopped
            began = time.monotonic()
            assert running.end(signal.SIGTERM) == 1
            assert time.monotonic() - began < 8  # by itself it waits for ten seconds
            assert "it was killed" in running.said
            assert not is_mounted(at)
    wait_until_gone(family)


@fuse
@root
def test_a_signal_in_the_middle_of_a_copy(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    """Whoever uses the mount then gets an error, and nobody waits."""
    (tmp_path / "shared").mkdir()
    with mount(run_pykrun, at, "--shared-dir", str(tmp_path / "shared"), "--cache", "never") as running:
        running.wait_for("mounted on")
        copy = subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={at}/big", "bs=64k", "count=100000"], stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: (tmp_path / "shared/big").exists())
        assert running.end(signal.SIGTERM) == 0
        _, told = copy.communicate(timeout=30)
        assert copy.returncode == 1
        assert "Software caused connection abort" in told or "Transport endpoint" in told or "No such device" in told
    assert not is_mounted(at)
    size = (tmp_path / "shared/big").stat().st_size
    assert size > 0
    assert size % 65536 == 0  # whole writes


@fuse
@root
@pytest.mark.parametrize("busy", [False, True])
def test_nothing_is_left_of_one_that_is_killed(run_pykrun: Pykrun, at: Path, busy: bool) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        family = running.family()
        user = (at / "hello").open("rb", buffering=0) if busy else None
        running.process.kill()
        running.process.wait(10)
        wait_until(lambda: not is_mounted(at), what="unmounted")
        assert os.listdir(at) == []
        if user is not None:
            with pytest.raises(OSError) as caught:
                os.pread(user.fileno(), 10, 0)
            user.close()
            assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    wait_until_gone(family)


@fuse
@root
def test_a_server_that_dies_is_said_and_unmounted(run_pykrun: Pykrun, at: Path) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        os.kill(running.server(), signal.SIGKILL)
        assert running.end() == 1
        assert "server was ended by SIGKILL" in running.said
        assert not is_mounted(at)


@fuse
@root
def test_the_guardian_is_replaced(run_pykrun: Pykrun, at: Path) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        first = running.guardian()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(first, number)
        assert running.guardian() == first
        os.kill(first, signal.SIGKILL)
        running.wait_for("there is a new one")
        family = running.family()
        assert running.guardian() != first
        running.process.kill()
        running.process.wait(10)
        wait_until(lambda: not is_mounted(at), what="unmounted")
    wait_until_gone(family)


@fuse
@root
def test_what_others_mount_over_it_is_left_alone(run_pykrun: Pykrun, at: Path) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        subprocess.run(["mount", "-t", "tmpfs", "none", at], check=True)
        try:
            assert running.end(signal.SIGTERM) == 0
            assert is_mounted(at)
        finally:
            subprocess.run(["umount", at], check=True)
            subprocess.run(["umount", at], check=True)


@fuse
@root
def test_a_shared_directory(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "file").write_bytes(b"content")
    with mount(run_pykrun, at, "--shared-dir", str(shared), "--text", "/sub/virtual=v", "--log-level", "debug") as one:
        one.wait_for("mounted on")
        assert "isolation: own namespaces, the shared folder as root" in one.said
        assert (at / "file").read_bytes() == b"content"
        assert (at / "sub/virtual").read_bytes() == b"v"
        (at / "sub/new").write_bytes(b"n" * 3_000_000)
        os.chown(at / "sub/new", 1000, 1000)
        os.setxattr(at / "sub/new", "user.x", b"y")
        os.rename(at / "sub/new", at / "moved")
        with (at / "moved").open("rb") as stream:
            os.fsync(stream.fileno())
            assert len(os.listdir(f"/proc/{one.server()}/task")) == 2  # in a thread of its own, in the sandbox too
        assert one.end(signal.SIGTERM) == 0
    assert (shared / "moved").stat().st_size == 3_000_000
    assert (shared / "moved").stat().st_uid == 1000
    assert os.getxattr(shared / "moved", "user.x") == b"y"
    assert not (shared / "sub/virtual").exists()


@fuse
@root
def test_read_only(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with mount(run_pykrun, at, "--shared-dir", str(tmp_path), "--readonly") as running:
        running.wait_for("mounted on")
        assert (at / "file").read_bytes() == b"content"
        for change in (
            lambda: (at / "file").write_bytes(b""),
            lambda: (at / "new").mkdir(),
            lambda: (at / "file").unlink(),
            lambda: os.chmod(at / "file", 0),
        ):
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno == errno.EROFS


@fuse
@root
def test_mounted_inside_what_it_shares(run_pykrun: Pykrun) -> None:
    """In its own namespaces the server sees the directory below; without them it would wait for itself."""
    with tempfile.TemporaryDirectory(prefix="pkm") as name:
        place = Path(name)
        (place / "m/below").mkdir(parents=True)
        (place / "m/below/file").write_bytes(b"x")
        with mount(run_pykrun, place / "m", "--shared-dir", name) as running:
            running.wait_for("mounted on")
            assert sorted(os.listdir(place / "m")) == ["m"]
            assert (place / "m/m/below/file").read_bytes() == b"x"
            assert running.end(signal.SIGTERM) == 0
        done = run_pykrun(["mount", f"{name}/m", "--shared-dir", name, "--sandbox", "none"])
        assert done.returncode == 2
        assert b"inside itself" in done.stderr
        assert not is_mounted(place / "m")


@fuse
@root
def test_cache_policies(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    for policy, seen in (("never", True), ("always", False)):
        with mount(run_pykrun, at, "--shared-dir", str(tmp_path), "--cache", policy) as running:
            running.wait_for("mounted on")
            assert not (at / "new").exists()
            (tmp_path / "new").write_bytes(b"")
            assert (at / "new").exists() == seen
            (tmp_path / "new").unlink()
            assert running.end(signal.SIGTERM) == 0


@fuse
@root
def test_mapped_attributes(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with mount(run_pykrun, at, "--shared-dir", str(tmp_path), "--xattrmap", ":map::user.guest.:") as running:
        running.wait_for("mounted on")
        os.setxattr(at / "file", "user.a", b"1")
        assert os.listxattr(at / "file") == ["user.a"]
        assert running.end(signal.SIGTERM) == 0
    assert os.listxattr(tmp_path / "file") == ["user.guest.user.a"]


@fuse
@root
def test_a_slow_operation_holds_up_nobody(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    """Writing to the disk takes long; others are answered meanwhile."""
    with mount(run_pykrun, at, "--shared-dir", str(tmp_path), "--cache", "never") as running:
        running.wait_for("mounted on")
        server = running.server()
        file = os.open(at / "big", os.O_RDWR | os.O_CREAT)
        for _ in range(48):
            os.write(file, bytes(1 << 20))
        slow = threading.Thread(target=os.fsync, args=(file,))
        slow.start()
        answered = 0
        while slow.is_alive():
            os.stat(at / "big")
            answered += 1
        slow.join()
        os.close(file)
        assert answered > 1
        assert len(os.listdir(f"/proc/{server}/task")) == 2


@fuse
@root
def test_counts_on_demand(run_pykrun: Pykrun, at: Path) -> None:
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        (at / "hello").read_bytes()
        running.process.send_signal(signal.SIGUSR1)
        running.wait_for("pykrun:   INIT ")
        assert "pykrun:   OPEN " in running.said
        assert (at / "hello").read_bytes() == b"world"
        assert running.end(signal.SIGTERM) == 0
        assert running.said.count("requests:") == 1  # not at the end: --stats was not given


@fuse
@root
def test_mount_options(run_pykrun: Pykrun, at: Path) -> None:
    words = ("-o", "noexec,fsname=a b", "-o", "ro,default_permissions,allow_other")
    with mount(run_pykrun, at, *NULL, *words) as running:
        running.wait_for("mounted on")
        device = os.stat(at).st_dev
        ahead = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        assert ahead.read_text() == "1024\n"
        (row,) = [row.split() for row in Path("/proc/self/mounts").read_text().splitlines() if str(at) in row]
        assert row[0] == r"a\040b"
        assert row[2] == "fuse.pykrun"
        assert {"ro", "nosuid", "nodev", "noexec", "allow_other", "default_permissions"} <= set(row[3].split(","))


@fuse
@root
def test_tells_the_service_manager(run_pykrun: Pykrun, at: Path, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        words = ["mount", str(at), *NULL, "--log-level", "off"]
        with Running(run_pykrun, words, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as running:
            assert manager.recv(100) == b"READY=1"
            assert (at / "hello").read_bytes() == b"world"
            assert running.end(signal.SIGTERM) == 0
            assert manager.recv(100) == b"STOPPING=1"
            assert running.said == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "either --shared-dir or --null"),
        (("--null", "--shared-dir", "/"), "either --shared-dir or --null"),
        (("--shared-dir", "/nonexistent"), "--shared-dir '/nonexistent': No such file"),
        (("--null", "-o", "nonsense"), "-o 'nonsense' is not known"),
        (("--null", "--file", "/x=/nonexistent"), "cannot read '/nonexistent'"),
        (("--null", "--text", "relative=x"), "not an absolute path"),
        (("--shared-dir", "/", "--xattrmap", ":map:"), "--xattrmap ':map:' is cut off"),
        (("--null", "--rlimit-nofile", "many"), "--rlimit-nofile wants"),
        (("--null", "--cache", "some"), "invalid choice"),
    ],
)
def test_options_that_cannot_be(run_pykrun: Pykrun, tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    done = run_pykrun(["mount", str(tmp_path), *words])
    assert done.returncode == 2
    assert complaint in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert not is_mounted(tmp_path)


@fuse
@pytest.mark.parametrize(
    ("name", "complaint"),
    [("missing", "No such file or directory (make the directory first)"), ("file", "not a directory")],
)
def test_mount_points_that_cannot_be(run_pykrun: Pykrun, tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = run_pykrun(["mount", str(tmp_path / name), *NULL])
    assert done.returncode == 2
    assert complaint in done.stderr.decode()


@fuse
@root
def test_a_dead_mount_is_named(run_pykrun: Pykrun, at: Path) -> None:
    from pykrun.fuse.dev_fuse import open_mount

    os.close(open_mount(str(at)))
    done = run_pykrun(["mount", str(at), *NULL])
    assert done.returncode == 2
    assert f"there is a dead mount: umount {at}" in done.stderr.decode()
    subprocess.run(["umount", at], check=True)


# As nobody: through fusermount3, which opens /dev/fuse as its user


@pytest.fixture
def nobody(at: Path) -> Path:
    """A mount point of nobody's, below a folder with a device node that everybody may open."""
    os.mknod(at.parent / "fuse", 0o20666, os.makedev(10, 229))
    (at.parent / "fuse").chmod(0o666)
    os.chown(at, NOBODY, NOBODY)
    (at.parent / "tmp").mkdir(mode=0o777)
    return at


SCRIPT = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from pykrun.cli import main; sys.exit(main())"
LAUNCH = 'mount --bind "$1/fuse" /dev/fuse; shift; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'


GONE = "for i in $(seq 300); do grep -q ' {at} ' /proc/self/mounts || break; sleep 0.1; done"


def by_nobody(at: Path, *words: str, script: str = "wait", path: str = "") -> subprocess.CompletedProcess[str]:
    """Mount as nobody, in a mount namespace of its own, run a shell script of nobody's meanwhile, and end."""
    steps = f"""
"$@" & pid=$!
for i in $(seq 300); do grep -q " {at} fuse.pykrun" /proc/self/mounts && break; kill -0 $pid || break; sleep 0.1; done
{script}
kill -TERM $pid 2> /dev/null; wait $pid; echo status $?
grep -c " {at} " /proc/self/mounts
"""
    command = ["unshare", "--mount", "/bin/sh", "-c", LAUNCH, "sh", str(at.parent), "/bin/sh", "-c", steps, "sh"]
    command += [PYTHON or "", "-I", "-S", "-c", SCRIPT, "mount", str(at), *words]
    environment = {"PATH": path + os.environ["PATH"], "HOME": f"{at.parent}/tmp", "TMPDIR": f"{at.parent}/tmp"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


@fuse
@root
@helper
@as_nobody
def test_nobody_mounts_what_is_nobodys(nobody: Path) -> None:
    script = f"""
cat {nobody}/hello; echo; stat -c '%u %g %a' {nobody}/hello; cat {nobody}/key {nobody}/key
grep ' {nobody} ' /proc/self/mounts
"""
    (nobody.parent / "key").write_bytes(b"secret\n")
    done = by_nobody(nobody, *NULL, "--secret", f"/key={nobody.parent}/key", "-o", "noexec", script=script)
    lines = done.stdout.splitlines()
    assert lines[0] == "world"
    assert lines[1:3] == ["65534 65534 644", "secret"]  # root's key, 0400, could not be read
    assert "nosuid,nodev,noexec" in lines[3]
    assert "user_id=65534" in lines[3]
    assert "allow_other" not in lines[3]
    assert lines[4:] == ["status 0", "0"]
    assert f"mounted on {nobody}" in done.stderr


@fuse
@root
@helper
@as_nobody
def test_nobody_shares_a_directory(nobody: Path) -> None:
    shared = nobody.parent / "shared"
    shared.mkdir()
    os.chown(shared, NOBODY, NOBODY)
    script = f"cd {nobody} && mkdir a b && echo x > a/f && mv a/f b/g && ln b/g h && chown 0 h; chmod 600 b/g; cd /"
    done = by_nobody(nobody, "--shared-dir", str(shared), "--log-level", "debug", script=script)
    assert done.stdout.splitlines() == ["status 0", "0"]
    assert (shared / "h").stat().st_mode & 0o777 == 0o600
    assert (shared / "h").stat().st_uid == NOBODY
    assert "Operation not permitted" in done.stderr  # the chown
    assert "Landlock" in done.stderr or not landlock.version()


@fuse
@root
@helper
@as_nobody
def test_what_nobody_may_not(nobody: Path) -> None:
    done = by_nobody(nobody, *NULL, "-o", "allow_other")
    if not os.path.exists("/etc/fuse.conf") or "\nuser_allow_other" not in Path("/etc/fuse.conf").read_text():
        assert "user_allow_other" in done.stderr
        assert done.stdout.splitlines() == ["status 1", "0"]
    assert "is for root alone" in by_nobody(nobody, *NULL, "-o", "suid").stderr
    os.chown(nobody, 0, 0)
    denied = by_nobody(nobody, *NULL)
    assert f"cannot mount on '{nobody}'" in denied.stderr
    assert denied.stdout.splitlines() == ["status 1", "0"]


@fuse
@root
@helper
@as_nobody
def test_a_mount_of_nobodys_is_gone_when_it_is_killed(nobody: Path) -> None:
    done = by_nobody(nobody, *NULL, script="kill -KILL $pid; " + GONE.format(at=nobody))
    assert done.stdout.splitlines() == ["status 137", "0"]


@fuse
@root
@helper
@as_nobody
def test_killed_while_fusermount3_mounts_for_it(nobody: Path) -> None:
    """Whoever killed it saw no mount yet; it comes nevertheless, and goes."""
    (nobody.parent / "bin").mkdir()
    (nobody.parent / "seen").touch()
    (nobody.parent / "seen").chmod(0o666)
    wrapper = nobody.parent / "bin/fusermount3"
    wrapper.write_text(
        f"""#!/bin/sh
[ "$1" != -o ] || kill -KILL $PPID
{shutil.which("fusermount3")} "$@"; grep -c ' {nobody} ' /proc/self/mounts >> {nobody.parent}/seen
"""
    )
    wrapper.chmod(0o755)
    done = by_nobody(nobody, *NULL, script=GONE.format(at=nobody), path=f"{nobody.parent}/bin:")
    assert done.stdout.splitlines() == ["status 137", "0"]
    assert (nobody.parent / "seen").read_text().split() == ["1", "0"], "it was mounted, and unmounted"


@fuse
@root
@as_nobody
def test_nobody_without_fusermount3(nobody: Path) -> None:
    environment = {"PATH": "/nonexistent", "HOME": "/nonexistent"}
    done = subprocess.run(
        [PYTHON or "", "-I", "-S", "-c", SCRIPT, "mount", str(nobody), *NULL],
        env=environment,
        user=NOBODY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "through fusermount3, which is not here (apt install fuse3)" in done.stderr


@fuse
@root
@pytest.mark.parametrize("name", ["two words", "tab\tand\nline", "back\\slash\\040", "caf\udce9", "-o"])
def test_odd_names(run_pykrun: Pykrun, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="pkm") as place:
        at = Path(place) / name
        at.mkdir()
        with Running(run_pykrun, ["mount", str(at), *NULL]) as running:
            running.wait_for("mounted on")
            assert (at / "hello").read_bytes() == b"world"
            assert running.end(signal.SIGTERM) == 0
        assert os.listdir(at) == []


@fuse
@root
def test_it_is_quick_to_mount(run_pykrun: Pykrun, at: Path) -> None:
    """Not a measurement: a bound that a wait for something that never comes would miss."""
    began = time.monotonic()
    with mount(run_pykrun, at, *NULL) as running:
        running.wait_for("mounted on")
        assert running.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 10
