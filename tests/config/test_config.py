"""Machines described in files: read, written, and what is wrong in them."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from pykrun.cli import run as run_command
from pykrun.config import KEYS, find_lines, read, show
from pykrun.errors import UsageError
from tests.support.command import Pykrun

FULL = """\
command = ["/bin/sh", "-c", "echo hi"]
root = "tree"
read_only = true
cache = "always"
env = { A = "1", "B.C" = "two words" }
workdir = "/"
user = [1, 2]
hostname = "box"
tty = false
engine = "uml"
cpus = 1
memory = 128
net = "user"
publish = ["8080:80", "127.0.0.1:53:53/udp"]
timeout = 9.5
kernel_args = ["quiet"]

[rlimits]
nofile = [64, "unlimited"]
core = 0

[files]
"/etc/motd" = "hello = there\\n"
"/bin/tool" = { path = "tool", mode = "0755" }

[secrets."/key"]
path = "/keys/k"

[directories]
"/data" = "0700"

[[volumes]]
host = "src"
guest = "/src"
read_only = true

[[volumes]]
host = "/out"
guest = "/out"

[[tmpfs]]
guest = "/tmp"
size = 1048576

[[disks]]
image = "a.img"
read_only = true

[[disks]]
image = "b.img"
format = "qcow2"
"""


def write(folder: Path, text: str) -> str:
    file = folder / "vm.toml"
    file.write_text(text)
    return str(file)


def test_a_file_becomes_options(tmp_path: Path) -> None:
    described = read(write(tmp_path, FULL))
    here = str(tmp_path)
    assert described.command == ["/bin/sh", "-c", "echo hi"]
    text = "\n".join(described.options)
    for words in (
        f"--root\n{here}/tree\n--read-only\n--cache\nalways\n--env\nA=1\n--env\nB.C=two words\n--workdir\n/",
        "--user\n1:2\n--hostname\nbox\n--no-tty\n--engine\numl\n--cpus\n1\n--memory\n128\n--net\nuser",
        "--publish\n8080:80\n--publish\n127.0.0.1:53:53/udp\n--timeout\n9.5\n--kernel-arg\nquiet",
        "--rlimit\nnofile=64:unlimited\n--rlimit\ncore=0\n--text\n/etc/motd=hello = there\n",
        f"--file\n/bin/tool={here}/tool:0755\n--secret\n/key=/keys/k\n--dir\n/data:0700",
        f"--volume\n{here}/src:/src:ro\n--volume\n/out:/out:rw\n--tmpfs\n/tmp:size=1048576",
        f"--disk-format\nraw\n--disk\n{here}/a.img:ro\n--disk-format\nqcow2\n--disk\n{here}/b.img",
    ):
        assert words in text


def test_files_and_command_line_have_the_same_options() -> None:
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    options = {action.option_strings[-1] for action in parser._actions if action.option_strings}
    names = {
        "files": {"--file", "--text"},
        "secrets": {"--secret"},
        "directories": {"--dir"},
        "tty": {"--tty", "--no-tty"},
    }
    names |= {"volumes": {"--volume"}, "disks": {"--disk", "--disk-format"}, "rlimits": {"--rlimit"}}
    names |= {"kernel_args": {"--kernel-arg"}}
    known = set().union(*(names.get(key, {f"--{key.replace('_', '-')}"}) for key in KEYS))
    only_there = {"--config", "--env-file", "--verbose", "--help"}
    assert known == options - only_there


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('image = "debian:12"', ["--image", "debian:12"]),
        ('image = "localhost:5000/app:1"', ["--image", "localhost:5000/app:1"]),
        ('image = "docker://debian:12"', ["--image", "docker://debian:12"]),
        ('image = "./app.tar:v1"', ["--image", "HERE/app.tar:v1"]),
        ('image = "oci:./img:v1"', ["--image", "oci:HERE/img:v1"]),
        ('image = "oci:img"', ["--image", "oci:HERE/img"]),
        (
            'image = "docker-archive:../a.tar:host/app:1"',
            ["--image", "docker-archive:UP/a.tar:host/app:1"],
        ),
        ('image = "oci-archive:/app.tar"', ["--image", "oci-archive:/app.tar"]),
        ('entrypoint = ""', ["--entrypoint", ""]),
        ('kernel_args = ["-b", "quiet"]', ["--kernel-arg=-b", "--kernel-arg", "quiet"]),
        ('root_options = "-x"', ["--root-options=-x"]),
        ("env = { -A = '1' }", ["--env=-A=1"]),
    ],
)
def test_words_of_the_command_line(tmp_path: Path, text: str, words: list[str]) -> None:
    expected = [word.replace("HERE", str(tmp_path)).replace("UP", str(tmp_path.parent)) for word in words]
    assert read(write(tmp_path, text)).options == expected


WRONG = [
    ("rot = '/'", 1, "rot: is not known; did you mean root?"),
    ("\n\nmemory = '1'", 3, "memory: wants a whole number from 1 to"),
    ("memory = true", 1, "memory: wants a whole number"),
    ("a.b = 1", 1, "a: is not known; there are command, root"),
    ("root = 3", 1, "root: wants a text, not 3"),
    ("read_only = 'yes'", 1, "read_only: wants true or false, not 'yes'"),
    ("engine = 'bochs'", 1, "engine: wants one of auto, uml, qemu, not 'bochs'"),
    ("command = 'uname -a'", 1, "command: wants an array, not 'uname -a'"),
    ("command = [\n'a',\n3]", 3, "command[1]: wants a text, not 3"),
    ("env = { A = '1', B = 2 }", 1, "env.B: wants a text, not 2"),
    ("[env]\nA = '''\n\n'''\n'B C' = 2", 5, 'env."B C": wants a text, not 2'),
    ("user = true", 1, "user: wants a number or [uid, gid]"),
    ("rlimits.nofile = []", 1, "rlimits.nofile: wants [soft, hard]"),
    ("# x\n[files]\n# [files]\n'/x' = { path = '/y', mode = 644 }", 4, 'files."/x".mode: wants an octal mode'),
    ("[files]\n'x' = ''", 2, "files.x: wants an absolute path"),
    ("[files.'/x']\nmode = '0644'", 1, 'files."/x": needs path'),
    ("[[volumes]]\nhost = '.'\nguest = '/a'\n[[volumes]]\nhost = '.'", 4, "volumes[1]: needs guest"),
    ("[[volumes]]\nhost = '.'\nguest = '/a'\nro = true", 4, "volumes[0].ro: is not known; there are host, guest"),
    (
        "disks = [{ image = 'a' },\n { image = 'b',\tformat = 'vdi' }]",
        2,
        "disks[1].format: wants one of raw, qcow2, vmdk",
    ),
    ("[[tmpfs]]\nguest = '/t'\nsize = '1m'", 3, "tmpfs[0].size: wants a number of bytes"),
    ("publish = ['80:80',\n# x\n'many:80']", 3, "publish[1]: "),
    ("root_disk = '/dev/sda'", 1, "root_disk: wants a disk or partition"),
    ("timeout = -1", 1, "timeout: wants a positive number of seconds"),
    ("root = \n", 1, "Invalid value"),
    ("root = '/'\nroot = '/'", 2, "Cannot overwrite a value"),
    ("[files", 1, "Expected ']'"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG, ids=[text for text, _, _ in WRONG])
def test_what_is_wrong_is_said_with_line_and_key(tmp_path: Path, text: str, line: int, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}:{line}: {message}")
    assert "\n" not in str(caught.value)


def test_a_slip_of_syntax_is_said_with_its_column(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r":2: Invalid value \(column 8\)$"):
        read(write(tmp_path, "cpus = 1\nroot = x"))


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read(str(tmp_path / "missing"))
    (tmp_path / "latin").write_bytes(b"root = '\xff'")
    with pytest.raises(UsageError, match="not UTF-8"):
        read(str(tmp_path / "latin"))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
NAMES = st.one_of(st.from_regex(r"[a-z0-9_-]{1,5}", fullmatch=True), TEXTS)
LEAVES = st.one_of(
    TEXTS, st.integers(-(1 << 60), 1 << 60), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)


@hypothesis.given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_what_is_written_is_read_and_every_key_is_found(document: dict[str, object]) -> None:
    text = show(document)
    expected = {key: value for key, value in document.items() if value not in ([], {})}
    assert tomllib.loads(text) == expected
    lines = find_lines(text)
    for key, value in expected.items():
        assert key in text.split("\n")[lines[(key,)] - 1] or not key.isprintable() or set(key) & set('"\\') or not key
        for inner in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            assert (key, inner) in lines


def test_lines_of_every_way_to_write_a_key() -> None:
    text = '''# a = 1
"a" . 'b'.c = """
x = 1 \\""" ""
"""
d = [ # comment ]
  [1, 2], "]",
  { e = ']', "f\\u0041" = [
    3 ] } ]

[ g . h ]
i = 1979-05-27T07:32:00Z
[[ j ]]
k = \'\'\'
[[ j ]]\'\'\'
[j.l]
m = 1
[[j]]
[j.n]
o = {}
'''
    tomllib.loads(text)
    lines = find_lines(text)
    expected = {("a",): 2, ("a", "b", "c"): 2, ("d",): 5, ("d", 0): 6, ("d", 0, 1): 6, ("d", 1): 6, ("d", 2, "e"): 7}
    expected |= {("d", 2, "fA"): 7, ("d", 2, "fA", 0): 8, ("g", "h"): 10, ("g", "h", "i"): 11, ("j",): 12, ("j", 0): 12}
    expected |= {("j", 0, "k"): 13, ("j", 0, "l", "m"): 16, ("j", 1): 17, ("j", 1, "n", "o"): 19}
    assert {path: lines.get(path) for path in expected} == expected


def test_the_effective_description_and_back(run_pykrun: Pykrun, tmp_path: Path) -> None:
    file = write(tmp_path, FULL)
    first = run_pykrun(["config", "--config", file, "--memory", "512", "-e", "A=3", "--tmpfs", "/run:size=1k,mode=700"])
    assert (first.returncode, first.stderr) == (0, b"")
    document = tomllib.loads(first.stdout.decode())
    assert document["memory"] == 512
    assert document["env"] == {"A": "3", "B.C": "two words"}
    assert document["files"]["/bin/tool"] == {"path": str(tmp_path / "tool"), "mode": "0755"}
    assert document["tmpfs"][1] == {"guest": "/run", "size": 1024, "mode": "700"}
    (tmp_path / "again.toml").write_bytes(first.stdout)
    again = run_pykrun(["config", f"--config={tmp_path / 'again.toml'}"])
    assert again.stdout == first.stdout
    other = run_pykrun(["config", "--config", file, "--", "/bin/other", "--config"])
    assert tomllib.loads(other.stdout.decode())["command"] == ["/bin/other", "--config"]


def test_a_description_is_the_same_from_another_folder(
    run_pykrun: Pykrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/app.tar").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "here")
    for given, image in (
        ("app.tar:v1", f"{tmp_path}/here/app.tar:v1"),
        ("oci:./img:v1", f"oci:{tmp_path}/here/img:v1"),
        ("debian:12", "debian:12"),
    ):
        words = [
            "config",
            "--image",
            given,
            "--entrypoint",
            "",
            "--kernel-arg=-b",
            "--root-disk=vda",
            "--root-options=-x",
        ]
        first = run_pykrun(words)
        assert (first.returncode, first.stderr) == (0, b"")
        document = tomllib.loads(first.stdout.decode())
        assert (document["image"], document["entrypoint"], document["kernel_args"]) == (image, "", ["-b"])
        file = write(tmp_path, first.stdout.decode())
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            again = run_pykrun(["config", "--config", file])
        assert again.stdout == first.stdout


def test_an_error_of_the_command(run_pykrun: Pykrun, tmp_path: Path) -> None:
    file = write(tmp_path, "\nmemory = 0\n")
    done = run_pykrun(["run", "--config", file, "--", "/x"])
    assert done.returncode == 125
    assert done.stderr == f"pykrun: {file}:2: memory: wants a whole number from 1 to 1048576, not 0\n".encode()
    assert run_pykrun(["run", "--config"]).returncode == 125


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hostname = 'a b'", "hostname: --hostname wants 1 to 64 bytes"),
        ("kernel_args = ['quiet', 'a b']", "kernel_args: --kernel-arg wants one word"),
        ("rlimits.nofiles = 1", "rlimits: --rlimit wants NAME=CUR:MAX, not 'nofiles=1'"),
        ("rlimits.nofile = [2, 1]", "rlimits: --rlimit 'nofile=2:1': the soft limit is above the hard one"),
    ],
)
def test_what_the_options_refuse_has_its_place(run_pykrun: Pykrun, tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, f"\n{text}\n")
    done = run_pykrun(["config", "--config", file])
    assert done.returncode == 2
    assert done.stderr.startswith(f"pykrun: {file}:2: {message}".encode())
    assert done.stderr.count(b"\n") == 1


@pytest.mark.uml
def test_a_run(run_pykrun: Pykrun, tmp_path: Path) -> None:
    import shutil

    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox on PATH (apt-get install busybox-static)")
    text = f"""
engine = "uml"
command = ["/bin/sh", "-c", "cat /etc/motd; echo $A; df -k /tmp | tail -n 1"]
env.A = "from the file"
[files]
"/etc/motd" = "hello\\n"
{"".join(f'"/bin/{tool}" = {{ path = "{busybox}", mode = "0755" }}' + chr(10) for tool in ("sh", "cat", "df", "tail"))}
[[tmpfs]]
guest = "/tmp"
size = 65536
"""
    done = run_pykrun(["run", "--config", write(tmp_path, text), "--env", "A=from the command line"])
    assert done.stderr == b""
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == ["hello", "from the command line"]
    assert lines[2].split()[:2] == ["tmpfs", "64"]
