"""What a bundle's `process` and its streams become in the guest."""

from __future__ import annotations

import os
import subprocess
import termios

import pytest

from tests.oci.runtime.runtime import Console, Runtime
from tests.support.command import wait_until


def test_kernel_name_and_streams(each: Runtime) -> None:
    code, output, errors = each.output("uname -r; hostname; echo err >&2; exit 3", hostname="box")
    release, name = output.split()
    assert (code, name, errors) == (3, "box", "err\n")
    assert release != os.uname().release


def test_arguments_environment_directory(runtime: Runtime) -> None:
    process = {
        "args": ["sh", "-c", 'printf "%s|" "$@"; printf "%s|" "$A" "$B"; pwd; env | wc -l', "-", "a b", "", "ü\n"],
        "env": ["PATH=/bin", "A=x=y", "B=", "HOME=/h", "TERM=dumb"],
        "cwd": "/made/here",
    }
    code, output, _ = runtime.output(process=process)
    assert code == 0
    assert output.startswith("a b||ü\n|x=y||/made/here\n")
    assert (runtime.bundles / "one" / "rootfs/made/here").is_dir()


def test_user(runtime: Runtime) -> None:
    user = {"uid": 5, "gid": 6, "additionalGids": [7, 8], "umask": 0o27}
    process = {"user": user, "cwd": "/tmp", "args": ["sh", "-c", "id; umask; touch f; stat -c '%a %u %g' f"]}
    bundle = runtime.bundle()
    (bundle / "rootfs/tmp").mkdir()
    (bundle / "rootfs/tmp").chmod(0o1777)
    code, output, _ = runtime.output(process=process)
    assert (code, output) == (0, "uid=5 gid=6 groups=7,8\n0027\n640 5 6\n")
    made = (bundle / "rootfs/tmp/f").stat()
    assert (made.st_uid, made.st_gid) == (5, 6)


@pytest.mark.parametrize(("uid", "home"), [(0, "/root"), (1000, "/home/u"), (1001, "/"), (1002, "/")])
def test_home_is_the_users(runtime: Runtime, uid: int, home: str) -> None:
    """Of the root's own /etc/passwd, as with runc; containerd counts on it."""
    process = {"env": ["PATH=/bin"], "user": {"uid": uid, "gid": 0}}
    passwd = runtime.bundle() / "rootfs/etc/passwd"
    passwd.write_text("root:x:0:0::/root:/bin/sh\nu:x:1000:1::/home/u:/bin/sh\nnone:x:1002:1:::\n")
    code, output, _ = runtime.output("echo $HOME", process=process)
    assert (code, output) == (0, f"{home}\n")


def test_limits_and_rights(runtime: Runtime) -> None:
    process = {
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "capabilities": {name: ["CAP_KILL", "cap_chown", "CAP_NEW"] for name in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
    }
    code, output, _ = runtime.output(
        "ulimit -n; ulimit -Hn; grep -E 'Cap(Bnd|Eff)|NoNew' /proc/self/status", process=process
    )
    assert code == 0
    assert output.split() == ["100", "200", "CapEff:", f"{0x21:016x}", "CapBnd:", f"{0x21:016x}", "NoNewPrivs:", "1"]


def test_what_is_written_to_it(runtime: Runtime) -> None:
    bundle = runtime.bundle(script="md5sum; echo end")
    noise = os.urandom(3_000_000)
    out = runtime.bundles / "out"
    reading, writing = os.pipe()
    with out.open("wb") as file, open(reading, "rb") as stdin:
        runtime.create("one", bundle, stdin=stdin, stdout=file)
    pid = runtime.state("one")["pid"]
    runtime.must("start", "one")
    with open(writing, "wb") as pipe:
        pipe.write(noise)
    assert runtime.reap(pid) == 0
    expected = subprocess.run(["md5sum"], input=noise, stdout=subprocess.PIPE, check=True).stdout
    assert out.read_bytes() == expected + b"end\n"


def test_nobody_else_holds_the_streams(runtime: Runtime) -> None:
    """Neither the creator nor a further pipe of the caller's is left open."""
    reading, writing = os.pipe()
    other_reading, other_writing = os.pipe()
    bundle = runtime.bundle(script="echo out")
    runtime.names.append("one")
    command = runtime.start_command(
        "create", "--bundle", bundle, "one", stdin=-3, stdout=writing, stderr=-3, pass_fds=(other_writing,)
    )
    assert command.wait(60) == 0
    os.close(writing)
    os.close(other_writing)
    with open(other_reading, "rb") as pipe:
        assert pipe.read() == b""
    runtime.must("start", "one")
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"out\n"


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 128, 255])
def test_exit_codes(runtime: Runtime, code: int) -> None:
    assert runtime.output(f"exit {code}")[0] == code


def test_an_interpreter_that_is_missing(runtime: Runtime) -> None:
    """Only the guest's kernel finds out; the start fails, and the code is what a shell would have."""
    bundle = runtime.bundle(process={"args": ["/bin/script"]})
    script = bundle / "rootfs/bin/script"
    script.write_text("#!/no/such/shell\n")
    script.chmod(0o755)
    runtime.create("one", bundle)
    pid = runtime.state("one")["pid"]
    assert "Couldn't execute '/bin/script': No such file or directory" in runtime.refused("start", "one")
    assert runtime.reap(pid) == 127
    assert runtime.status("one") == "stopped"


def test_a_terminal(each: Runtime, console: Console) -> None:
    script = "tty; stty size; read line; echo got $line; stty size; exit 5"
    process = {"terminal": True, "consoleSize": {"height": 30, "width": 90}}
    bundle = each.bundle(script=script, process=process)
    each.names.append("one")
    each.must("create", "--bundle", bundle, "--console-socket", console.path, "one")
    master = console.accept()
    pid = each.state("one")["pid"]
    each.must("start", "one")
    assert console.read_until(b"30 90\r\n") == b"/dev/hvc0\r\n30 90\r\n"
    termios.tcsetwinsize(master, (40, 100))
    wait_until(lambda: each("exec", "one", "stty", "-F", "/dev/hvc0", "size").stdout == b"40 100\n", 20, "the size")
    os.write(master, b"hey\r")
    console.read_until(b"got hey\r\n40 100\r\n")
    assert each.reap(pid) == 5


def test_keys_of_a_terminal(runtime: Runtime, console: Console) -> None:
    """Ctrl-C is the program's; ^] has no meaning of its own."""
    bundle = runtime.bundle(
        script="trap 'echo int; exit 4' INT; echo up; while :; do sleep 0.1; done", process={"terminal": True}
    )
    runtime.names.append("one")
    runtime.must("create", "--bundle", bundle, "--console-socket", console.path, "one")
    master = console.accept()
    pid = runtime.state("one")["pid"]
    runtime.must("start", "one")
    console.read_until(b"up")
    os.write(master, b"\x1d\x1d\x1d\x1d")
    os.write(master, b"\x03")
    console.read_until(b"int")
    assert runtime.reap(pid) == 4


def test_a_terminal_that_hangs_up(runtime: Runtime, console: Console) -> None:
    """As when conmon is killed: the program gets HUP."""
    bundle = runtime.bundle(script="echo up; sleep 600", process={"terminal": True})
    runtime.names.append("one")
    runtime.must("create", "--bundle", bundle, "--console-socket", console.path, "one")
    console.accept()
    pid = runtime.state("one")["pid"]
    runtime.must("start", "one")
    console.read_until(b"up")
    os.close(console.master)
    console.master = -1
    assert runtime.reap(pid) == 129


def test_memory_and_processors(runtime: Runtime) -> None:
    def memory(**changes: object) -> int:
        code, output, _ = runtime.output("grep MemTotal /proc/meminfo", **changes)
        assert code == 0
        return int(output.split()[1]) >> 10

    limit = {"resources": {"memory": {"limit": 300 << 20}}}
    assert 900 < memory() <= 1024
    assert 220 < memory(linux=limit) <= 300
    assert 400 < memory(linux=limit, annotations={"krun.ram_mib": "512"}) <= 512
    assert 30 < memory(linux={"resources": {"memory": {"limit": 1 << 21}}}) <= 96


@pytest.mark.qemu
def test_processors(runtime: Runtime) -> None:
    runtime.engine = "auto"
    _code, output, _ = runtime.output(
        "grep -c processor /proc/cpuinfo", annotations={"krun.cpus": "2", "pykrun.engine": "qemu"}
    )
    assert output == "2\n"


@pytest.mark.uml
def test_an_image_does_not_choose_against_the_host(runtime: Runtime) -> None:
    """Whoever makes an image may set annotations."""
    runtime.engine = "uml"
    code, output, _ = runtime.output("grep -ci 'user mode' /proc/cpuinfo", annotations={"pykrun.engine": "qemu"})
    assert (code, output != "0\n") == (0, True)


def test_a_quota_is_no_wish(runtime: Runtime) -> None:
    """More processors than one would mean an emulated machine: a limit is kept by fewer, too."""
    runtime.engine = "auto"
    cpu = {"resources": {"cpu": {"quota": 250_000, "period": 100_000}}}
    code, output, _ = runtime.output("grep -c processor /proc/cpuinfo", linux=cpu)
    assert code == 0
    assert output in ("1\n", "3\n")
