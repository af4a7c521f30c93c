"""Start data, configuration, environment, limits: what is accepted, what it means, and the one message otherwise."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krun_init import capabilities, config, environment, jsonload, mounts, rlimits, start, workload
from krun_init.checks import Fields
from krun_init.config import Config
from krun_init.errors import InitError
from krun_init.log import Log
from krun_init.start import Start


class Lines(Log):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, level: int, text: str) -> None:
        self.lines.append(text)


def parse_config(document: Any) -> Config:
    return config.parse("/c.json", json.dumps(document).encode(), Lines())


def parse_start(document: dict[str, Any]) -> Start:
    return start.parse("/s.json", json.dumps({"version": 1, **document}).encode())


@pytest.mark.parametrize(
    ("document", "argv", "env", "workdir"),
    [
        ({}, [], [], None),
        (
            {"process": {"args": ["a", "b"], "env": ["K=V", "E="], "cwd": "/w"}},
            ["a", "b"],
            [("K", "V"), ("E", "")],
            "/w",
        ),
        ({"process": {"args": ["a"]}, "args": ["x"], "env": ["A=B"], "cwd": "/x"}, ["a"], [], None),
        ({"process": {"args": ["a"]}, "Entrypoint": ["e"]}, ["e", "a"], [], None),
        ({"process": {}, "args": ["x"]}, [], [], None),
        ({"args": ["a"], "env": ["K=V=W"], "cwd": "/w"}, ["a"], [("K", "V=W")], "/w"),
        (
            {"Cmd": ["a"], "Env": ["K=V"], "WorkingDir": "/w", "Entrypoint": ["e", "f"]},
            ["e", "f", "a"],
            [("K", "V")],
            "/w",
        ),
        ({"Entrypoint": ["e"]}, ["e"], [], None),
        ({"Entrypoint": None, "Cmd": ["a"], "WorkingDir": ""}, ["a"], [], None),
        ({"Entrypoint": [], "Cmd": []}, [], [], None),
        ({"args": [], "Cmd": ["a"], "Cwd": "/w"}, ["a"], [], "/w"),
        ({"args": ["first"], "Cmd": ["second"]}, ["first"], [], None),
        ({"ociVersion": "1.0", "linux": {"namespaces": []}, "annotations": 5}, [], [], None),
    ],
)
def test_config_forms(document: Any, argv: list[str], env: list[tuple[str, str]], workdir: str | None) -> None:
    parsed = parse_config(document)
    assert (parsed.argv, parsed.env, parsed.workdir) == (argv, env, workdir)


def test_whole_oci_process() -> None:
    parsed = parse_config(
        {
            "hostname": "h",
            "process": {
                "terminal": True,
                "user": {"uid": 1, "gid": 2, "additionalGids": [3, 4], "umask": 63},
                "rlimits": [
                    {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                ],
                "noNewPrivileges": True,
                "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            },
            "mounts": [
                {"type": "tmpfs", "source": "tmpfs", "destination": "/t", "options": ["size=1m"]},
                {"type": "tmpfs", "source": "other", "destination": "/u"},
                {"type": "proc", "source": "proc", "destination": "/proc"},
            ],
        }
    )
    assert parsed.user is not None
    assert (parsed.user.uid, parsed.user.gid, parsed.user.groups, parsed.user.umask) == (1, 2, [3, 4], 63)
    assert parsed.rlimits == {7: (5, 6), 4: (0, 0)}
    assert parsed.capabilities == (1 << 5, 0, 0, 1 << 5, 0)
    assert (parsed.hostname, parsed.terminal, parsed.no_new_privs) == ("h", True, True)
    assert [(one.destination, one.options) for one in parsed.tmpfs] == [("/t", ["size=1m"])]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "/c.json must be an object, not an array"),
        ("x", "/c.json must be an object, not a string"),
        ({"process": []}, "/c.json: process must be an object, not an array"),
        ({"process": {"args": "sh"}}, "/c.json: process.args must be an array, not a string"),
        ({"process": {"args": [1]}}, "/c.json: process.args must be a string, not a number"),
        ({"process": {"args": ["a\0b"]}}, "/c.json: process.args must not hold a NUL character"),
        ({"process": {"args": ["\ud800"]}}, "/c.json: process.args holds a lone surrogate that stands for no byte"),
        ({"process": {"env": ["KV"]}}, "/c.json: process.env must be of the form NAME=VALUE, not 'KV'"),
        ({"process": {"env": ["=V"]}}, "/c.json: process.env must be of the form NAME=VALUE, not '=V'"),
        ({"process": {"cwd": 1}}, "/c.json: process.cwd must be a string, not a number"),
        ({"process": {"terminal": 1}}, "/c.json: process.terminal must be true or false, not a number"),
        ({"process": {"noNewPrivileges": "y"}}, "/c.json: process.noNewPrivileges must be true or false, not a string"),
        ({"process": {"user": {"uid": True}}}, "/c.json: process.user.uid must be a number, not true or false"),
        ({"process": {"user": {"gid": 1.5}}}, "/c.json: process.user.gid must be a number, not a fraction"),
        (
            {"process": {"user": {"uid": 1 << 32}}},
            "/c.json: process.user.uid must be a number from 0 to 4294967294, not 4294967296",
        ),
        (
            {"process": {"user": {"additionalGids": [{}]}}},
            "/c.json: process.user.additionalGids must be a number, not an object",
        ),
        ({"process": {"user": {"umask": 512}}}, "/c.json: process.user.umask must be a number from 0 to 511, not 512"),
        ({"process": {"rlimits": {}}}, "/c.json: process.rlimits must be an array, not an object"),
        (
            {"process": {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}},
            "/c.json: process.rlimits[0].type: 'RLIMIT_X' is no resource limit",
        ),
        (
            {"process": {"rlimits": [{"type": "RLIMIT_AS", "soft": 1}]}},
            "/c.json: process.rlimits[0] needs both soft and hard",
        ),
        (
            {"process": {"capabilities": {"bounding": ["CAP_X"]}}},
            "/c.json: process.capabilities.bounding: 'CAP_X' is no capability",
        ),
        ({"Env": {"A": "B"}}, "/c.json: Env must be an array, not an object"),
        ({"Entrypoint": "sh"}, "/c.json: Entrypoint must be an array, not a string"),
        ({"hostname": []}, "/c.json: hostname must be a string, not an array"),
        ({"mounts": {}}, "/c.json: mounts must be an array, not an object"),
        ({"mounts": ["/t"]}, "/c.json: mounts[0] must be an object, not a string"),
        (
            {"mounts": [{"type": "tmpfs", "source": "tmpfs"}]},
            "/c.json: mounts[0].destination must be an absolute path, not None",
        ),
        (
            {"mounts": [{"type": "tmpfs", "source": "tmpfs", "destination": "t"}]},
            "/c.json: mounts[0].destination must be an absolute path, not 't'",
        ),
    ],
)
def test_config_errors(document: Any, message: str) -> None:
    with pytest.raises(InitError) as caught:
        parse_config(document)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"version": 2}, "version must be 1"),
        ({"version": None}, "version must be 1"),
        ({"argv": "x"}, "/s.json: argv must be an array"),
        ({"env": [["K", "V"]]}, "/s.json: env must be a string, not an array"),
        ({"streams": "pipes"}, "/s.json: streams must be relay, ports or console, not 'pipes'"),
        ({"window": [1]}, "/s.json: window must be rows and columns"),
        ({"window": [1, 65536]}, "/s.json: window must be a number from 0 to 65535"),
        ({"rlimits": [[7, 1]]}, "/s.json: rlimits[0] must be number, soft limit and hard limit"),
        ({"rlimits": [[16, 1, 1]]}, "/s.json: rlimits[0] must be a number from 0 to 15, not 16"),
        ({"rlimits": [7]}, "/s.json: rlimits[0] must be an array, not a number"),
        ({"seed": "xyz"}, "/s.json: seed must be hexadecimal"),
        ({"volumes": [{"destination": "/v"}]}, "/s.json: volumes[0] needs a tag"),
        ({"tmpfs": [{}]}, "/s.json: tmpfs[0].destination must be an absolute path"),
        ({"grace_ms": -1}, "/s.json: grace_ms must be a number from 0"),
        ({"pid1": "1"}, "/s.json: pid1 must be true or false, not a string"),
        ({"dhcp": 1}, "/s.json: dhcp must be true or false, not a number"),
        ({"hold": 1}, "/s.json: hold must be true or false, not a number"),
        ({"mounts": [{"destination": "/x"}]}, "/s.json: mounts[0] needs a type"),
        ({"mounts": [{"type": "tmpfs", "destination": "x"}]}, "mounts[0].destination must be an absolute path"),
        ({"mounts": [{"type": "root", "destination": "/x", "copy": 1}]}, "mounts[0].copy must be true or false"),
        ({"network": {"prefix": 8}}, "/s.json: network.address must be a string, not null"),
        ({"network": {"address": "1.2.3"}}, "/s.json: network.address must be an IPv4 address, not '1.2.3'"),
        ({"network": {"address": "1.2.3.256"}}, "network.address must be an IPv4 address"),
        ({"network": {"address": "1.2.3.4", "prefix": 33}}, "network.prefix must be a number from 0 to 32, not 33"),
        ({"network": {"address": "1.2.3.4", "routes": [["0.0.0.0", 0]]}}, "must be destination, prefix and gateway"),
    ],
)
def test_start_data_errors(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InitError) as caught:
        parse_start(document)
    assert message in str(caught.value)


def test_whole_start_data() -> None:
    parsed = parse_start(
        {
            "init": "/bin/x",
            "argv": ["a", "\udcff"],
            "env": ["A=1"],
            "workdir": "/w",
            "hostname": "h",
            "user": {"uid": 1},
            "rlimits": [[7, 1, (1 << 64) - 1]],
            "terminal": True,
            "window": [24, 80],
            "ports": ["p"],
            "streams": "console",
            "pid1": True,
            "dhcp": True,
            "tmpfs": [{"destination": "/t"}],
            "hold": True,
            "mounts": [{"type": "root", "destination": "/m", "source": "/n", "optional": True}],
            "network": {"address": "1.2.3.4", "prefix": 24, "routes": [["0.0.0.0", 0, "1.2.3.1"]], "mtu": 1500},
            "volumes": [{"tag": "v", "destination": "/v", "readonly": True}],
            "seed": "00ff",
            "grace_ms": 0,
            "unknown": {},
        }
    )
    assert (parsed.init, parsed.argv, parsed.env) == ("/bin/x", ["a", "\udcff"], [("A", "1")])
    assert parsed.hold
    assert [(one.kind, one.destination, one.source, one.copy, one.optional) for one in parsed.mounts] == [
        ("root", "/m", "/n", False, True)
    ]
    assert parsed.network is not None
    assert (parsed.network.address, parsed.network.prefix, parsed.network.mtu) == (b"\1\2\3\4", 24, 1500)
    assert parsed.network.routes == [(bytes(4), 0, b"\1\2\3\1")]
    assert parsed.user is not None
    assert (parsed.user.uid, parsed.user.gid, parsed.user.umask) == (1, 0, -1)
    assert (parsed.rlimits, parsed.window) == ({7: (1, (1 << 64) - 1)}, (24, 80))
    assert (parsed.workdir, parsed.hostname, parsed.ports, parsed.streams) == ("/w", "h", ["p"], "console")
    assert (parsed.terminal, parsed.pid1, parsed.dhcp) == (True, True, True)
    assert (parsed.seed, parsed.grace_ms) == (b"\x00\xff", 0)
    assert [(one.destination, one.options) for one in parsed.tmpfs] == [("/t", [])]
    assert [(one.tag, one.destination, one.readonly) for one in parsed.volumes] == [("v", "/v", True)]


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        ("6=4096:8192,7=1:2", {6: (4096, 8192), 7: (1, 2)}),
        ('"6=4096:8192,7=1:2"', {6: (4096, 8192), 7: (1, 2)}),
        ('"6=4096:8192","7=1:2"', {6: (4096, 8192), 7: (1, 2)}),
        ("6:4096:8192", {6: (4096, 8192)}),
        (" 6=1:2 , 7=3:4 ,", {6: (1, 2), 7: (3, 4)}),
        ("7=18446744073709551615:18446744073709551615", {7: (rlimits.INFINITY, rlimits.INFINITY)}),
        ("", {}),
    ],
)
def test_rlimit_words(words: str, limits: dict[int, tuple[int, int]]) -> None:
    log = Lines()
    assert rlimits.parse_words(words, log) == limits
    assert log.lines == []


@pytest.mark.parametrize(
    "bad", ["x", "7", "7=1", "7=1:2:3", "99=1:1", "7=a:b", "-7=1:2", "7=1:18446744073709551616", "\u0667=1:2"]
)
def test_unusable_rlimit_words_are_skipped_with_a_warning(bad: str) -> None:
    log = Lines()
    assert rlimits.parse_words(f"{bad},4=0:0", log) == {4: (0, 0)}
    assert len(log.lines) == 1
    assert "KRUN_RLIMITS" in log.lines[0]


def test_later_limits_win() -> None:
    assert rlimits.merge({7: (1, 1), 4: (0, 0)}, {7: (2, 2)}, {7: (3, 3)}) == [(7, 3, 3), (4, 0, 0)]


def test_ambient_capabilities_that_cannot_be_are_left_out_with_a_warning() -> None:
    log = Lines()
    sets = {"ambient": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "inheritable": ["CAP_CHOWN", "cap_kill"]}
    masks = capabilities.parse(Fields("c", sets), log)
    assert masks == (0, 0, 1 | 1 << 5, 1, 1)
    assert len(log.lines) == 1


def environment_of(
    words: dict[str, str], kernel: dict[str, str], start_env: list[str] | None, config_env: list[str]
) -> dict[str, str]:
    data = Start() if start_env is None else parse_start({"env": start_env})
    return environment.compose(words, kernel, data, parse_config({"env": config_env}))


def test_environment_of_a_plain_host() -> None:
    kernel = {"HOME": "/", "TERM": "linux", "A": "kernel"}
    merged = environment_of({"KRUN_TERM": "vt"}, kernel, None, ["A=config", "B=config", "HOME=/root", "TERM=xterm"])
    assert merged == {"HOME": "/root", "TERM": "vt", "A": "kernel", "B": "config", "PATH": environment.PATH}


def test_environment_with_start_data() -> None:
    kernel = {"HOME": "/", "TERM": "linux", "junk": "word"}
    merged = environment_of({}, kernel, ["HOME=/asked", "A=", "PATH=/p"], ["A=config", "HOME=/config", "TERM=config"])
    assert merged == {"HOME": "/asked", "TERM": "config", "A": "", "PATH": "/p"}


def test_control_words_are_parted_from_variables() -> None:
    words, plain = environment.split({b"KRUN_INIT": b"/x", b"KRUNX": b"\xff", b"KRUN_TERM": b"t"})
    assert words == {"KRUN_INIT": "/x", "KRUN_TERM": "t"}
    assert plain == {"KRUNX": "\udcff"}


@pytest.mark.parametrize(
    ("words", "rest", "start_data", "config_argv", "argv"),
    [
        ({}, [], None, [], ["/bin/sh"]),
        ({}, ["a", "b"], None, [], ["a", "b"]),
        ({}, ["a"], None, ["c"], ["c"]),
        ({"KRUN_INIT": "/i"}, ["a"], None, ["c"], ["/i", "a"]),
        ({}, ["junk"], {}, [], ["/bin/sh"]),
        ({}, ["junk"], {"argv": ["x"]}, [], ["x"]),
        ({}, ["junk"], {"argv": ["x"]}, ["c"], ["c"]),
        ({}, ["junk"], {"init": "/i", "argv": ["x"]}, ["c"], ["/i", "x"]),
        ({}, [], {"init": ""}, ["c"], [""]),
    ],
)
def test_argv(
    words: dict[str, str], rest: list[str], start_data: dict[str, Any] | None, config_argv: list[str], argv: list[str]
) -> None:
    data = Start() if start_data is None else parse_start(start_data)
    assert workload.choose_argv(words, rest, data, parse_config({"args": config_argv})) == argv


@pytest.mark.parametrize(
    ("program", "path", "expected"),
    [
        ("sh", "/a:/b", ["/a/sh", "/b/sh"]),
        ("sh", ":/b", ["sh", "/b/sh"]),
        ("./sh", "/a", ["./sh"]),
        ("/bin/sh", "/a", ["/bin/sh"]),
        ("", "/a", [""]),
    ],
)
def test_candidates(program: str, path: str, expected: list[str]) -> None:
    assert workload.candidates(program, path) == expected


def test_mount_options() -> None:
    base = mounts.NODEV | mounts.NOEXEC
    words = ["ro", "exec", "nosuid", "noatime", "size=1m", "rprivate", "mode=0700", "defaults"]
    flags, data = mounts.options(words, base | mounts.RELATIME)
    assert flags == mounts.NODEV | mounts.RDONLY | mounts.NOSUID | mounts.NOATIME
    assert data == "size=1m,mode=0700"
    assert mounts.options([], base) == (base, None)


@pytest.mark.parametrize(
    ("field", "path"), [(r"/a\040b", "/a b"), (r"/a\134\011\012\043", "/a\\\t\n#"), ("/plain", "/plain")]
)
def test_mount_table_escapes(field: str, path: str) -> None:
    assert mounts.unescape(field) == path


@pytest.mark.parametrize(("path", "normal"), [("/", "/"), ("//a/./b/", "/a/b"), ("/a/../../b", "/b")])
def test_normalised_paths(path: str, normal: str) -> None:
    assert mounts.normalise(path) == normal


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_what_json_says(value: Any) -> None:
    assert jsonload.loads(json.dumps(value).encode()) == value
    assert jsonload.loads(b" \r\n\t" + json.dumps(value, indent=1).encode() + b"\n ") == value


@given(st.binary(max_size=60) | st.text('[]{}",:\\u0123456789abcdeftrunl \n', max_size=60).map(str.encode))
def test_json_never_fails_in_another_way(data: bytes) -> None:
    try:
        value = jsonload.loads(data)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            json.loads(data.decode("utf-8"), parse_constant=_refuse)
    else:
        assert json.loads(data.decode("utf-8")) == value


def _refuse(name: str) -> None:
    raise ValueError(name)


@pytest.mark.parametrize(
    "data", [b"", b"  ", b"{", b"{}x", b"NaN", b"[1,]", b"\xff", b'"\n"', b"[" * 100_000, b"-Infinity"]
)
def test_json_errors(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        jsonload.loads(data)


NAMES = [
    "process",
    "args",
    "env",
    "user",
    "uid",
    "rlimits",
    "type",
    "mounts",
    "destination",
    "source",
    "options",
    "capabilities",
]
NAMES += [
    "bounding",
    "Entrypoint",
    "Cmd",
    "hostname",
    "soft",
    "hard",
    "terminal",
    "version",
    "window",
    "seed",
    "volumes",
    "tag",
]
SHAPED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["tmpfs", "/t", "RLIMIT_AS", "K=V", "CAP_KILL", "\0", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=25,
)


@given(SHAPED)
def test_any_config_is_taken_or_refused_with_a_message(document: Any) -> None:
    for parse in (parse_config, lambda value: start.parse("/s.json", json.dumps(value).encode())):
        with contextlib.suppress(InitError):
            parse(document)
