"""Bundles that are broken in each field: the exact error, and nothing left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.oci.runtime.runtime import Runtime, merged

BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"ociVersion": None}, "ociVersion is missing"),
    ({"ociVersion": 1}, "ociVersion must be a string, not a number"),
    ({"ociVersion": "2.0"}, "ociVersion is '2.0'; this runtime knows 1.x"),
    ({"root": None}, "root is missing"),
    ({"root": {"path": None}}, "root.path is missing"),
    ({"root": {"readonly": "yes"}}, "root.readonly must be true or false, not a string"),
    ({"process": None}, "process is missing: there must be a program to run"),
    ({"process": "sh"}, "process must be an object, not a string"),
    ({"process": {"args": None}}, "process.args is missing: there must be a program to run"),
    ({"process": {"args": []}}, "process.args is missing: there must be a program to run"),
    ({"process": {"args": [""]}}, "process.args[0] is empty"),
    ({"process": {"args": "sh"}}, "process.args must be an array, not a string"),
    ({"process": {"args": ["sh", 1]}}, "process.args[1] must be a string, not a number"),
    ({"process": {"args": ["a\0b"]}}, "process.args[0] must not hold a NUL character"),
    ({"process": {"cwd": None}}, "process.cwd is missing"),
    ({"process": {"cwd": "tmp"}}, "process.cwd must be absolute, not 'tmp'"),
    ({"process": {"env": ["A"]}}, "process.env[0] must be NAME=VALUE, not 'A'"),
    ({"process": {"env": ["=x"]}}, "process.env[0] must be NAME=VALUE, not '=x'"),
    ({"process": {"user": []}}, "process.user must be an object, not an array"),
    ({"process": {"user": {"uid": -1}}}, "process.user.uid must be a number from 0 to 4294967294, not -1"),
    ({"process": {"user": {"gid": "0"}}}, "process.user.gid must be a number, not a string"),
    ({"process": {"user": {"additionalGids": [True]}}}, "process.user.additionalGids[0] must be a number, not true"),
    ({"process": {"user": {"umask": 512}}}, "process.user.umask must be a number from 0 to 511, not 512"),
    ({"process": {"terminal": 1}}, "process.terminal must be true or false, not a number"),
    ({"process": {"terminal": True}}, "process.terminal needs --console-socket, which gets the terminal"),
    ({"process": {"consoleSize": {"height": 70000}}}, "process.consoleSize.height must be a number from 0 to 65535"),
    ({"process": {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}}, "rlimits[0].type is 'RLIMIT_X'"),
    ({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 1}]}}, "rlimits[0] needs both soft and hard"),
    ({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}}, "rlimits[0].soft is 2, more than hard"),
    ({"process": {"capabilities": {"bounding": "CAP_KILL"}}}, "capabilities.bounding must be an array, not a string"),
    ({"process": {"noNewPrivileges": 0}}, "process.noNewPrivileges must be true or false, not a number"),
    ({"process": {"oomScoreAdj": 2000}}, "process.oomScoreAdj must be a number from -1000 to 1000, not 2000"),
    ({"hostname": 5}, "hostname must be a string, not a number"),
    ({"hostname": "x" * 65}, "hostname is longer than 64 bytes"),
    ({"mounts": {}}, "mounts must be an array, not an object"),
    ({"mounts": [{"type": "tmpfs"}]}, "mounts[0].destination is missing"),
    ({"mounts": [{"destination": "/x"}]}, "mounts[0].type is missing"),
    ({"mounts": [{"destination": "/x", "type": "bind"}]}, "mounts[0].source is missing"),
    ({"mounts": [{"destination": "/x", "type": "tmpfs", "options": "ro"}]}, "mounts[0].options must be an array"),
    (
        {"mounts": [{"destination": "/x", "type": "bind", "source": "/nowhere"}]},
        "error mounting '/nowhere' to rootfs at '/x': no such file or directory",
    ),
    ({"hooks": []}, "hooks must be an object, not an array"),
    ({"hooks": {"prestart": [{"args": ["x"]}]}}, "hooks.prestart[0].path is missing"),
    ({"hooks": {"prestart": [{"path": "true"}]}}, "hooks.prestart[0].path must be absolute, not 'true'"),
    ({"hooks": {"poststop": [{"path": "/x", "timeout": 0}]}}, "hooks.poststop[0].timeout must be a number from 1"),
    ({"hooks": {"startContainer": [{"path": "/x"}]}}, "hooks.startContainer is not supported"),
    ({"annotations": {"a": 1}}, "annotations.a must be a string, not a number"),
    ({"annotations": {"krun.cpus": "many"}}, "annotation krun.cpus must be a number from 1 to 255, not 'many'"),
    ({"annotations": {"krun.ram_mib": "0"}}, "annotation krun.ram_mib must be a number from 1 to"),
    ({"annotations": {"pykrun.engine": "xen"}}, "annotation pykrun.engine is 'xen'; there are auto, uml, qemu"),
    ({"annotations": {"pykrun.kernel": "/x"}}, "annotation pykrun.kernel is not taken, for whoever makes an image may"),
    ({"linux": []}, "linux must be an object, not an array"),
    ({"linux": {"namespaces": [{"path": "/x"}]}}, "linux.namespaces[0].type is missing"),
    ({"linux": {"namespaces": [{"type": "net"}]}}, "linux.namespaces[0].type is 'net'; there are pid, network"),
    ({"linux": {"namespaces": [{"type": "network", "path": "x"}]}}, "namespaces[0].path must be absolute, not 'x'"),
    (
        {"linux": {"namespaces": [{"type": "network", "path": "/nowhere"}]}},
        "cannot join network namespace '/nowhere': No such file or directory",
    ),
    (
        {"linux": {"uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}]}},
        "linux.uidMappings cannot be: the ids of a VM are not mapped to others of the host",
    ),
    (
        {"linux": {"devices": [{"path": "/dev/sda", "type": "b"}]}},
        "linux.devices[0]: /dev/sda cannot be: devices of the host do not reach a VM "
        "(run without --device and without --privileged)",
    ),
    ({"linux": {"resources": {"memory": {"limit": "1g"}}}}, "linux.resources.memory.limit must be a number"),
    ({"linux": {"resources": {"cpu": {"quota": 1.5}}}}, "linux.resources.cpu.quota must be a number, not a fraction"),
    ({"linux": {"resources": {"pids": []}}}, "linux.resources.pids must be an object, not an array"),
    ({"linux": {"cgroupsPath": "/a/../../b"}}, "linux.cgroupsPath must not lead out with .., as '/a/../../b' does"),
    ({"windows": {}}, "windows cannot be: this runtime runs Linux containers"),
    ({"process": {"args": ["nothing"]}}, "executable file `nothing` not found in $PATH: No such file or directory"),
    ({"process": {"args": ["/bin/nothing"]}}, "executable file `/bin/nothing` not found: No such file or directory"),
    ({"process": {"args": ["/etc/plain"]}}, "cannot execute `/etc/plain`: permission denied"),
    ({"process": {"args": ["/etc"]}}, "cannot execute `/etc`: permission denied"),
]


@pytest.mark.parametrize(("changes", "error"), BROKEN, ids=[error[:40] for _, error in BROKEN])
def test_broken(runtime: Runtime, changes: dict[str, Any], error: str) -> None:
    bundle = runtime.bundle(**changes)
    (bundle / "rootfs/etc/plain").write_text("no program")
    said = runtime.refused("create", "--bundle", bundle, "one")
    assert error in said
    assert not list(runtime.root.iterdir())


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "a value is expected at character 0"),
        (b"{", "property name"),
        (b"[]", "config.json must be an object, not an array"),
        (b"{} x", "the value ends at character 2, and more follows"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": "\xff"}', "utf-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_no_json(runtime: Runtime, content: bytes, error: str) -> None:
    bundle = runtime.bundle()
    (bundle / "config.json").write_bytes(content)
    assert error in runtime.refused("create", "--bundle", bundle, "one")


def test_no_bundle(runtime: Runtime) -> None:
    said = runtime.refused("create", "--bundle", runtime.bundles / "none", "one")
    assert said.endswith("config.json: No such file or directory (--bundle names the folder with config.json)")


def test_a_root_that_is_not_there(runtime: Runtime) -> None:
    bundle = runtime.bundle(root={"path": "other"})
    assert (
        runtime.refused("create", "--bundle", bundle, "one") == f"config.json: root.path is not there: {bundle}/other"
    )


def test_unknown_and_null_fields_are_ignored(runtime: Runtime) -> None:
    bundle = runtime.bundle()
    config = json.loads((bundle / "config.json").read_text())
    merged(config, {"future": {"a": 1}, "process": {"apparmorProfile": "x", "scheduler": {}, "ioPriority": {}}})
    config["hooks"] = config["linux"]["resources"] = config["process"]["rlimits"] = config["hostname"] = None
    config["linux"].update(seccomp={"defaultAction": "SCMP_ACT_ERRNO"}, maskedPaths=["/proc/kcore"], readonlyPaths=[])
    config["linux"]["devices"] = [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]
    (bundle / "config.json").write_text(json.dumps(config))
    runtime.names.append("one")
    assert runtime("run", "--bundle", bundle, "one").returncode == 0


def test_a_console_that_nobody_listens_at(runtime: Runtime) -> None:
    bundle = runtime.bundle(process={"terminal": True})
    said = runtime.refused("create", "--bundle", bundle, "--console-socket", runtime.bundles / "none", "one")
    assert said == f"--console-socket '{runtime.bundles}/none': No such file or directory"
    bundle = runtime.bundle()
    said = runtime.refused("create", "--bundle", bundle, "--console-socket", runtime.bundles / "none", "one")
    assert said == "--console-socket needs process.terminal in config.json"
