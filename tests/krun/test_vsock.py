"""Vsock ports of the API: Unix sockets of the host, in both directions."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from tests.krun.programs import NO_NETWORK, Programs, finish
from tests.support.command import wait_until

VSOCK = NO_NETWORK + "good(krun_add_vsock(ctx, 0))\n"


def tool(*words: str) -> str:
    """What makes the tests' static program run with these words."""
    return f"""
good(krun_set_root(ctx, root))
tool = open(arguments[0], "rb").read()
good(krun_fs_add_overlay_file(ctx, "/dev/root", "tool", tool, len(tool), 0o755, False))
good(krun_set_exec(ctx, "/tool", {list(words)!r}, []))
"""


def test_from_the_guest(programs: Programs, guest_tool: Path, tmp_path: Path) -> None:
    heard = b""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.settimeout(60)

        def answer() -> None:
            nonlocal heard
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(100):
                    heard += data
                connection.sendall(b"from the host")

        thread = threading.Thread(target=answer)
        thread.start()
        result = programs.run(
            VSOCK + tool("vsock-cat", "1234") + "good(krun_add_vsock_port(ctx, 1234, arguments[1]))",
            guest_tool,
            tmp_path / "socket",
            stdin=b"from the guest",
        )
        thread.join()
    assert (result.code, result.out, heard) == (0, b"from the host", b"from the guest"), result


def test_into_the_guest(programs_once: Programs, guest_tool: Path, tmp_path: Path) -> None:
    """The socket is made by us, is there before the guest is up, and gone afterwards."""
    path = tmp_path / "socket"
    process = programs_once.start(
        VSOCK + tool("vsock-echo", "1234", "1") + "good(krun_add_vsock_port2(ctx, 1234, arguments[1], True))",
        guest_tool,
        path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    wait_until(path.exists)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(b"there and back")
        assert connection.recv(100) == b"there and back"
    assert finish(process).code == 0
    assert not path.exists()


def test_a_folder_that_is_not_there(programs_once: Programs) -> None:
    result = programs_once.run(
        VSOCK + "good(krun_set_root(ctx, root)); good(krun_add_vsock_port(ctx, 1, '/no/such/folder/socket'))",
        start="sys.exit(0 if krun_start_enter(ctx) == -errno.EINVAL else 1)",
    )
    assert result.code == 0
    assert b"/no/such/folder" in result.err
