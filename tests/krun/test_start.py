"""VMs by the API: what was asked for is there, and the process ends as the workload did."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.boot.images import content_of, make
from tests.disk.make import tool
from tests.krun.programs import NO_NETWORK, START, Programs, finish
from tests.support.command import Pykrun, wait_until

SET_UP_FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


def test_a_chroot_style_vm(programs: Programs, tmp_path: Path) -> None:
    """Root, a further directory, limits, working directory, program, words and environment."""
    (tmp_path / "file").write_text("shared")
    script = """
    mount -t virtiofs extra /mnt && cat /mnt/file && echo; touch /mnt/new || echo read-only
    pwd; ulimit -n; ulimit -Hn; echo "$A|$B"; for word; do echo "<$word>"; done; cat; exit 7
    """
    words = ["a b", "c\"d'e", "ä", "", "--", "\\$HOME"]
    result = programs.run(
        f"""
good(krun_set_vm_config(ctx, 1, 192))
good(krun_set_gpu_options2(ctx, 0, 0))
good(krun_set_root(ctx, root))
good(krun_add_virtiofs3(ctx, "extra", arguments[0], 1 << 29, True))
good(krun_set_rlimits(ctx, ["7=100:200", b"6=64:64"]))
good(krun_set_workdir(ctx, "/bin"))
good(krun_set_exec(ctx, "/bin/sh", ["-c", {script!r}, "sh", *{words!r}], ["A=x y", b"B=\\xc3\\xa4\\"'"]))
""",
        tmp_path,
        stdin=b"input\n",
    )
    expected = ["shared", "read-only", "/bin", "100", "200", "x y|ä\"'", *(f"<{word}>" for word in words), "input"]
    assert result.out.decode().splitlines() == expected, result
    assert result.code == 7
    assert b"Read-only file system" in result.err
    assert not (tmp_path / "new").exists()


def test_the_environment_of_the_host(programs_once: Programs) -> None:
    """200 variables with quotes and other text, all of them as they are, and none through the command line."""
    variables = {f"V{number}": f"{number} \"quoted\" 'too' \\ $x ä€\n{'x' * 50}" for number in range(200)}
    env = {**programs_once.pykrun.environment(), **variables, "PYKRUN_ENGINE": programs_once.engine}
    result = programs_once.run(
        NO_NETWORK
        + "good(krun_set_root(ctx, root)); good(krun_set_exec(ctx, '/bin/cat', ['/proc/self/environ'], None))",
        env=env,
    )
    seen = dict(entry.split("=", 1) for entry in result.out.decode().split("\0") if entry)
    assert result.code == 0
    assert {name: seen.get(name) for name in env} == env


def test_a_port_map(programs_once: Programs) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = programs_once.start(
        """
good(krun_set_root(ctx, root))
good(krun_set_port_map(ctx, [f"{arguments[0]}:80"]))
script = "nc -ll -p 80 -e /bin/cat & echo ready; cat; exit 3"
good(krun_set_exec(ctx, "/bin/sh", ["-c", script], []))
""",
        port,
        stdin=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def is_served() -> bool:
        """It may take a moment until the guest's program listens."""
        try:
            with socket.create_connection(("127.0.0.1", port), 3) as connection:
                connection.sendall(b"hello")  # passt of 2023 loses what a server says first and last
                return connection.recv(100) == b"hello"
        except OSError:
            return False

    wait_until(is_served, 30, "an answer of the guest's program")
    assert finish(process, b"").code == 3


def test_a_root_without_a_directory(programs_once: Programs) -> None:
    """The init is asked for and added by hand, as a one-shot file; further ones lie in memory, one in an own folder."""
    result = programs_once.run(
        NO_NETWORK
        + """
good(krun_disable_implicit_init(ctx))
good(krun_add_virtiofs3(ctx, "/dev/root", None, 0, False))
for name in ("dev", "proc", "sys", "bin", "etc"):
    good(krun_fs_add_overlay_dir(ctx, "/dev/root", name, 0o40755))
number, init = krun_get_default_init()
good(number)
good(krun_fs_add_overlay_file(ctx, "/dev/root", "init.krun", init, len(init), 0o100755, True))
shell = bytearray(open(root + "/bin/busybox", "rb").read())
good(krun_fs_add_overlay_file(ctx, "/dev/root", "bin/busybox", shell, len(shell), 0o755, False))
text = b"x" * 10000 + b"y"
good(krun_fs_add_overlay_file(ctx, "/dev/root", "/etc/text", memoryview(text), 10000, 0o640, False))
good(krun_fs_add_overlay_file(ctx, "/dev/root", "once", b"secret", 6, 0o400, True))
good(krun_fs_add_overlay_file(ctx, "/dev/root", "empty", None, 0, 0o644, False))
script = "cat /once; echo; cat /once 2>/dev/null || echo gone; ls /; stat -c '%a %s' /etc/text /empty; ls /init.krun"
good(krun_set_exec(ctx, "/bin/busybox", ["sh", "-c", script], []))
""",
    )
    lines = result.out.decode().splitlines()
    assert lines == ["secret", "gone", *sorted(["bin", "dev", "empty", "etc", "proc", "sys"]), "640 10000", "644 0"]
    assert result.code == 1


def test_data_is_held_by_reference(programs_once: Programs) -> None:
    """What the memory holds at the start is what the guest sees."""
    result = programs_once.run(
        NO_NETWORK
        + """
good(krun_set_root(ctx, root))
data = bytearray(b"early")
good(krun_fs_add_overlay_file(ctx, "/dev/root", "file", data, 5, 0o644, False))
data[:] = b"later"
good(krun_set_exec(ctx, "/bin/cat", ["/file"], []))
"""
    )
    assert (result.code, result.out) == (0, b"later")


@pytest.fixture
def disk(shell_root: Path, tmp_path: Path) -> Path:
    return make(tmp_path / "disk.img", "ext4", shell_root)


def test_a_disk_as_the_root(programs: Programs, disk: Path) -> None:
    result = programs.run(
        NO_NETWORK
        + """
good(krun_add_disk3(ctx, "the-disk", arguments[0], 0, False, False, 2))
good(krun_set_root_disk_remount(ctx, "/dev/vda", "auto", "noatime"))
script = "cat /marker /sys/block/vda/serial; echo; echo new > /file; ls -d /newroot; exit 9"
good(krun_set_exec(ctx, "/bin/sh", ["-c", script], []))
""",
        disk,
    )
    assert result.out.splitlines() == [b"from the root", b"the-disk"], result
    assert result.code == 9
    assert content_of(disk, "/file") == b"new\n"


def test_the_old_root_disk(programs_once: Programs, disk: Path) -> None:
    result = programs_once.run(
        NO_NETWORK
        + "good(krun_set_root_disk(ctx, arguments[0])); good(krun_set_exec(ctx, '/bin/cat', ['/marker'], []))",
        disk,
    )
    assert (result.code, result.out) == (0, b"from the root\n"), result


def test_disks_in_order(programs_once: Programs, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode().ljust(4096, b"."))
    result = programs_once.run(
        NO_NETWORK
        + """
good(krun_set_root(ctx, root))
good(krun_add_disk(ctx, "one", arguments[0], True))
good(krun_add_disk2(ctx, "two", arguments[1], 0, False))
script = "for d in vda vdb; do cat /sys/block/$d/serial /sys/block/$d/ro; done; echo X > /dev/vdb"
good(krun_set_exec(ctx, "/bin/sh", ["-c", script], []))
""",
        tmp_path / "one",
        tmp_path / "two",
    )
    assert result.out.split() == [b"one1", b"two0"], result
    assert (tmp_path / "two").read_bytes()[:3] == b"X\no"


def test_formats_of_disks(programs_once: Programs, tmp_path: Path) -> None:
    images = {"qcow2": tmp_path / "disk.qcow2", "vmdk": tmp_path / "disk.vmdk"}
    for name, image in images.items():
        (tmp_path / "raw").write_bytes(name.encode().ljust(1 << 16, b"."))
        tool("qemu-img", "convert", "-f", "raw", "-O", name, tmp_path / "raw", image)
    script = """
good(krun_set_root(ctx, root))
good(krun_add_disk2(ctx, "one", arguments[0], 1, True))
good(krun_add_disk3(ctx, "two", arguments[1], 2, False, False, 1))
script = "head -c 6 /dev/vda; head -c 5 /dev/vdb; echo X > /dev/vdb"
good(krun_set_exec(ctx, "/bin/sh", ["-c", script], []))
"""
    result = programs_once.run(NO_NETWORK + script, images["qcow2"], images["vmdk"])
    assert result.out == b"qcow2.vmdk.", result
    tool("qemu-img", "convert", "-f", "vmdk", "-O", "raw", images["vmdk"], tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes()[:4] == b"X\ndk"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("['-c', 'exit 42']", 42),
        ("['-c', 'kill -9 $$']", 137),
        ("['-c', 'kill -TERM $$']", 143),
    ],
)
def test_exit_codes(programs_once: Programs, program: str, code: int) -> None:
    result = programs_once.run(
        f"{NO_NETWORK}good(krun_set_root(ctx, root)); good(krun_set_exec(ctx, '/bin/sh', {program}, []))"
    )
    assert result.code == code


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("good(krun_set_exec(ctx, '/no/such', [], []))", NOT_FOUND, b"/no/such"),
        ("good(krun_set_exec(ctx, '/marker', [], []))", NOT_EXECUTABLE, b"/marker"),
        ("good(krun_set_workdir(ctx, '/no/such'))", SET_UP_FAILED, b"/no/such"),
    ],
)
def test_what_cannot_run(programs_once: Programs, line: str, code: int, said: bytes) -> None:
    result = programs_once.run(f"{NO_NETWORK}good(krun_set_root(ctx, root))\n{line}")
    assert result.code == code
    assert said in result.err


def test_a_failure_to_set_up_is_never_silent(programs_once: Programs) -> None:
    """Without a log it is on standard error."""
    text = f"{NO_NETWORK}good(krun_set_root(ctx, root)); good(krun_set_workdir(ctx, '/no/such'))"
    result = programs_once.run(text.replace("good(krun_init_log(2, 2, 2, 1))", ""))
    assert result.code == SET_UP_FAILED
    assert b"/no/such" in result.err


def test_the_consoles_output(programs_once: Programs, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.write_text("old and long, and gone")
    result = programs_once.shell(
        "echo out; echo err >&2; cat",
        before=f"good(krun_set_console_output(ctx, {str(output)!r}))",
        stdin=b"not for the guest",
    )
    assert (result.code, result.out, result.err) == (0, b"", b"")
    assert sorted(output.read_text().split()) == ["err", "out"]


def test_no_console(programs_once: Programs) -> None:
    """Then nothing is heard, and a program that writes does not know."""
    result = programs_once.shell(
        "cat; echo out && echo err >&2 && exit 5", before="good(krun_disable_implicit_console(ctx))", stdin=b"input"
    )
    assert (result.code, result.out, result.err) == (5, b"", b"")


def test_a_console_of_ones_own(programs_once: Programs) -> None:
    """Its descriptors need not be 0, 1 and 2."""
    read, write = os.pipe()
    with open(read, "rb") as stream:
        before = f"good(krun_disable_implicit_console(ctx)); good(krun_add_virtio_console_default(ctx, 0, {write}, 2))"
        result = programs_once.shell("cat; echo err >&2", before=before, stdin=b"input", pass_fds=(write,))
        os.close(write)
        assert (result.code, result.out, result.err, stream.read()) == (0, b"", b"err\n", b"input")


def test_a_terminal(programs_once: Programs) -> None:
    main, terminal = os.openpty()
    text = "good(krun_set_root(ctx, root)); good(krun_set_exec(ctx, '/bin/sh', ['-c', 'tty; read a; echo =$a='], []))"
    process = programs_once.start(NO_NETWORK + text, stdin=terminal, stdout=terminal)
    os.close(terminal)
    seen = b""
    with open(main, "r+b", buffering=0) as end:
        while b"/dev/hvc0\r\n" not in seen:
            seen += end.read(1000)
        end.write(b"typed\n")
        while b"=typed=\r\n" not in seen:
            seen += end.read(1000)
        assert finish(process).code == 0


def test_an_init_that_is_none_of_ours(programs: Programs, own_init: Path) -> None:
    """It gets libkrun's words by the kernel, and reports by the file system's ioctl."""
    result = programs.run(
        NO_NETWORK
        + """
good(krun_disable_implicit_init(ctx))
good(krun_set_root(ctx, root))
init = open(arguments[0], "rb").read()
good(krun_fs_add_overlay_file(ctx, "/dev/root", "init.krun", init, len(init), 0o755, True))
good(krun_set_workdir(ctx, "/bin"))
good(krun_set_exec(ctx, "/bin/program", [], []))
""",
        own_init,
    )
    assert result.code == 42, result  # it found the words


def test_an_init_in_the_directory(programs_once: Programs, own_init: Path, shell_root: Path) -> None:
    place = shell_root / "init.krun"
    place.write_bytes(own_init.read_bytes())
    place.chmod(0o755)
    try:
        result = programs_once.run(
            NO_NETWORK
            + """
good(krun_disable_implicit_init(ctx)); good(krun_set_root(ctx, root)); good(krun_set_workdir(ctx, "/bin"))
good(krun_set_exec(ctx, "/bin/program", [], []))
"""
        )
    finally:
        place.unlink()
    assert result.code == 42, result


def test_no_init_at_all(programs_once: Programs) -> None:
    result = programs_once.run(f"{NO_NETWORK}good(krun_disable_implicit_init(ctx)); good(krun_set_root(ctx, root))")
    assert result.code == SET_UP_FAILED
    assert b"was not set up" in result.err


def test_an_engine_is_named(programs_once: Programs) -> None:
    result = programs_once.shell("cat /proc/cmdline")
    assert (b"uml_dir=" in result.out) == (programs_once.engine == "uml")


@pytest.mark.full
@pytest.mark.qemu
def test_cpus_and_oem_strings(shell_root: Path, run_pykrun: Pykrun) -> None:
    """User Mode Linux has one CPU and no firmware."""
    script = "cat /sys/devices/system/cpu/online; tr -d '\\0' < /sys/firmware/dmi/tables/DMI"
    before = "good(krun_set_vm_config(ctx, 2, 256)); good(krun_set_smbios_oem_strings(ctx, ['one,two']))"
    result = Programs("qemu", shell_root, run_pykrun).shell(script, before=before)
    assert result.out.startswith(b"0-1\n")
    assert b"one,two" in result.out


def test_a_kernel_of_the_callers(programs: Programs) -> None:
    """The engine's own, by its path and as a file of the caller's; its command line is the caller's."""
    from pykrun import engine as engines

    image = engines.choose(programs.engine).kernel().image
    words = "panic=-1 quiet lsm=capability my.word=1" + (" console=ttyS0 reboot=t" if programs.engine == "qemu" else "")
    before = f"good(krun_set_kernel(ctx, {str(image)!r}, 1, None, {words!r}))"
    result = programs.shell("cat /proc/cmdline", before=before)
    assert result.code == 0, result
    assert b"my.word=1" in result.out
    assert b"printk.devkmsg" not in result.out


def test_two_starts_in_one_process(programs_once: Programs) -> None:
    """The first one fails before there is a VM, and leaves everything as it was."""
    result = programs_once.shell(
        "echo second",
        before="""
other = good(krun_create_ctx())
good(krun_set_root(other, "/no/such"))
assert krun_start_enter(other) == -errno.EINVAL
""",
    )
    assert (result.code, result.out) == (0, b"second\n")
    assert result.err.count(b"ERROR") == 1


def test_what_was_written_before_comes_first(programs_once: Programs) -> None:
    result = programs_once.shell("echo second", before="print('first')")
    assert result.out == b"first\nsecond\n"


def test_a_start_from_a_thread(programs_once: Programs) -> None:
    start = "threading.Thread(target=krun_start_enter, args=(ctx,)).start(); threading.Event().wait()"
    result = programs_once.shell("exit 6", start=start)
    assert result.code == 6


def test_a_start_after_fork(programs_once: Programs) -> None:
    """The child starts what the parent has described; the parent frees it, and waits."""
    start = """
child = os.fork()
if child == 0:
    sys.exit(krun_start_enter(ctx))
good(krun_free_ctx(ctx))
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) + 1)
"""
    result = programs_once.shell("echo hello; exit 6", start=start)
    assert (result.code, result.out) == (7, b"hello\n")


@pytest.mark.root
def test_a_caller_in_another_root(programs_once: Programs) -> None:
    """Names are the caller's, and it needs neither an engine nor Python there."""
    before = "os.chroot(root); os.chdir('/'); root = '/'"
    text = f"{NO_NETWORK}{before}\ngood(krun_set_root(ctx, root))\n"
    result = programs_once.run(
        text + "good(krun_disable_implicit_console(ctx)); good(krun_add_virtio_console_default(ctx, -1, 1, 2))\n"
        "good(krun_set_exec(ctx, '/bin/cat', ['/marker'], []))"
    )
    assert (result.code, result.out) == (0, b"from the root\n"), result


@pytest.mark.root
def test_a_caller_with_other_ids(programs_once: Programs) -> None:
    before = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    result = programs_once.shell("echo hello; exit 3", before=before)
    assert (result.code, result.out) == (3, b"hello\n"), result


@pytest.mark.root
def test_ids_of_the_vm(programs_once: Programs, python_for_all: str) -> None:
    """What the guest makes in a directory of the host belongs to them, and what only a group of the caller's may is
    closed to it."""
    from pykrun import blob

    home = programs_once.pykrun.folder / "other"
    shared, cache = home / "shared", home / "cache"
    for folder in (home, shared, cache):
        folder.mkdir()
        os.chown(folder, 54321, 12345)
    (shared / "group").mkdir()
    os.chown(shared / "group", 0, 54320)
    (shared / "group").chmod(0o770)
    init = shutil.copy(blob.find().path, home / "init")
    programs_once.python = python_for_all
    result = programs_once.shell(
        "mount -t virtiofs shared /mnt && touch /mnt/file && ! touch /mnt/group/file",
        before=f"""
good(krun_free_ctx(ctx)); os.setgroups([54320]); ctx = good(krun_create_ctx())
good(krun_disable_implicit_vsock(ctx)); good(krun_set_root(ctx, root))
good(krun_setuid(ctx, 54321)); good(krun_setgid(ctx, 12345))
good(krun_add_virtiofs(ctx, "shared", {str(shared)!r}))
""",
        env={"XDG_CACHE_HOME": str(cache), blob.OVERRIDE: str(init)},
    )
    assert result.code == 0, result
    status = (shared / "file").stat()
    assert (status.st_uid, status.st_gid) == (54321, 12345)


def test_ids_that_are_not_ours_to_take(programs_once: Programs) -> None:
    before = "good(krun_setgid(ctx, 12345)); good(krun_setuid(ctx, 54321))"
    drop_setgid = "import ctypes; ctypes.CDLL(None).prctl(24, 6, 0, 0, 0); ctx = good(krun_create_ctx())\n"
    become = drop_setgid if os.geteuid() == 0 else ""  # PR_CAPBSET_DROP, for the supervisor's process
    start = "result = krun_start_enter(ctx); sys.exit(0 if result == -errno.EPERM else f'it returned {result}')"
    result = programs_once.run(f"{become}{NO_NETWORK}{before}\ngood(krun_set_root(ctx, root))", start=start)
    assert result.code == 0, result


SLEEP = "trap 'exit 5' TERM; echo ready; while :; do sleep 1; done"


def test_the_shutdown_eventfd(programs_once: Programs) -> None:
    """A number written to it by whoever has it ends the VM in order."""
    go, gone = os.pipe()
    process = programs_once.start(
        f"""{NO_NETWORK}
good(krun_set_root(ctx, root)); good(krun_set_exec(ctx, "/bin/sh", ["-c", {SLEEP!r}], []))
shutdown = good(krun_get_shutdown_eventfd(ctx))
assert krun_get_shutdown_eventfd(ctx) == shutdown
def ask():
    os.read(int(arguments[0]), 1)
    os.eventfd_write(shutdown, 1)
threading.Thread(target=ask, daemon=True).start()
""",
        go,
        pass_fds=(go,),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.write(gone, b"x")
    assert finish(process).code == 5
    os.close(go)
    os.close(gone)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_to_the_process(programs_once: Programs, number: str) -> None:
    """It reaches the guest: SIGTERM asks for an orderly end, others are handed on."""
    import signal

    script = SLEEP.replace("TERM", "TERM INT")
    process = programs_once.start(
        f"{NO_NETWORK}good(krun_set_root(ctx, root)); good(krun_set_exec(ctx, '/bin/sh', ['-c', {script!r}], []))"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(getattr(signal, number))
    assert finish(process).code == 5


def test_kill_9_leaves_nothing(programs_once: Programs) -> None:
    """The VM ends with the process (what is left fails the test)."""
    process = programs_once.start(
        f"{NO_NETWORK}good(krun_set_root(ctx, root)); good(krun_set_exec(ctx, '/bin/sh', ['-c', {SLEEP!r}], []))"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.kill()
    assert finish(process).code == -9


def test_kill_9_of_a_child_whose_parent_has_the_context_too(programs_once: Programs) -> None:
    """The connection to the supervisor is still open there; the VM ends all the same."""
    start = """
child = os.fork()
if child == 0:
    sys.exit(krun_start_enter(ctx))
sys.stdin.readline()
os.kill(child, 9)
os.waitpid(child, 0)
os.close(1)
sys.stdin.readline()
"""
    process = programs_once.start(
        f"{NO_NETWORK}good(krun_set_root(ctx, root))\n"
        f"good(krun_disable_implicit_console(ctx)); good(krun_add_virtio_console_default(ctx, -1, 1, 2))\n"
        f"good(krun_set_exec(ctx, '/bin/sh', ['-c', {SLEEP!r}], []))",
        start=start,
        stdin=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.read() == b""  # nobody has it any more, while the parent is still there
    assert finish(process, b"\n").code == 0


def test_the_prelude_is_what_programs_write() -> None:
    assert START.count("krun_start_enter") == 1
