"""The command that comes of an image's configuration and the caller's words: Docker's precedence as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykrun.errors import UsageError
from pykrun.image import Config, add_missing, command_line, environment, resolve_user, working_directory
from pykrun.image.config import parse
from pykrun.root import Root

E, C, W = ("/entry", "e"), ("/cmd", "c"), ("/word", "w")

# image's entrypoint, image's command, --entrypoint, words: what is executed ("Understand how CMD and ENTRYPOINT
# interact" of the Dockerfile reference, and --entrypoint of docker run)
COMMANDS = [
    ((), C, None, (), C),
    ((), C, None, W, W),
    (E, (), None, (), E),
    (E, C, None, (), E + C),
    (E, (), None, W, E + W),
    (E, C, None, W, E + W),
    (E, C, "/mine", (), ("/mine",)),
    (E, C, "/mine", W, ("/mine", *W)),
    (E, C, "", W, W),
    ((), (), "/mine", (), ("/mine",)),
    ((), (), None, W, W),
    ((), (), None, (), None),
    (E, C, "", (), None),
]


@pytest.mark.parametrize(("entrypoint", "command", "asked", "words", "expected"), COMMANDS)
def test_commands(
    entrypoint: tuple[str, ...],
    command: tuple[str, ...],
    asked: str | None,
    words: tuple[str, ...],
    expected: tuple[str, ...] | None,
) -> None:
    config = Config(entrypoint=entrypoint, command=command)
    if expected is None:
        with pytest.raises(UsageError, match=r"does not say what to execute.*name a COMMAND"):
            command_line(config, asked, words)
        return
    line = command_line(config, asked, words)
    assert (line.program, *line.arguments) == expected


def test_variables() -> None:
    config = Config(environment={"PATH": "/image", "A": "image", "B": "image"})
    assert environment(config, {"B": "asked", "C": "asked"}, "/home") == {
        "HOME": "/home",
        "PATH": "/image",
        "A": "image",
        "B": "asked",
        "C": "asked",
    }
    assert environment(Config(environment={"HOME": "/image"}), {}, "/home")["HOME"] == "/image"
    assert environment(Config(environment={"HOME": "/image"}), {"HOME": "/mine"}, "/home")["HOME"] == "/mine"


@pytest.mark.parametrize(
    ("image", "asked", "expected"),
    [("", None, "/"), ("/srv", None, "/srv"), ("/srv", "/mine", "/mine"), ("srv", None, "/srv"), ("", "mine", "/mine")],
)
def test_working_directories(image: str, asked: str | None, expected: str) -> None:
    assert working_directory(Config(workdir=image), asked) == expected


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("", 15),
        ("SIGTERM", 15),
        ("SIGQUIT", 3),
        ("quit", 3),
        ("3", 3),
        ("SIGRTMIN+3", 37),
        ("RTMIN", 34),
        ("SIGWINCH", 28),
    ],
)
def test_stop_signals(name: str, number: int) -> None:
    config = parse("image", {"StopSignal": name})
    assert config.stop_signal == number
    assert parse("image", config.encode()) == config


PASSWD = """root:x:0:0:root:/root:/bin/sh
web:x:33:44:a user of the web:/srv/web:/bin/sh
homeless:x:34:44:::/bin/sh
123:x:35:45::/odd:/bin/sh
# a comment

broken:x
high:x:4294967294:4294967294::/:/bin/sh
nonsense:x:-1:x::/:
"""
GROUP = """root:x:0:root
web:x:44:
extra:x:77:web,other
more:x:78:other,web
wrong:x:y:web
short:x:79
"""

USERS = [
    ("", (0, 0, (0,)), "/root"),
    ("root", (0, 0, (0,)), "/root"),
    ("0", (0, 0, (0,)), "/root"),
    ("web", (33, 44, (77, 78)), "/srv/web"),
    ("33", (33, 44, (77, 78)), "/srv/web"),
    ("web:extra", (33, 77, ()), "/srv/web"),
    ("web:5", (33, 5, ()), "/srv/web"),
    ("33:0", (33, 0, ()), "/srv/web"),
    (":extra", (0, 77, ()), "/root"),
    ("1000", (1000, 0, ()), "/"),
    ("1000:1001", (1000, 1001, ()), "/"),
    ("1000:web", (1000, 44, ()), "/"),
    ("homeless", (34, 44, ()), "/"),
    ("123", (35, 45, ()), "/odd"),
    ("high", (4294967294, 4294967294, ()), "/"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/passwd").write_text(PASSWD)
    (tmp_path / "tree/etc/group").write_text(GROUP)
    return tmp_path / "tree"


@pytest.mark.parametrize(("text", "expected", "home"), USERS)
def test_users(tree: Path, text: str, expected: tuple[int, int, tuple[int, ...]], home: str) -> None:
    found = resolve_user(tree, text)
    assert (found.user.uid, found.user.gid, found.user.additional_gids) == expected
    assert found.home == home


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nobody", "no user 'nobody'"),
        ("web:nothing", "no group 'nothing'"),
        ("-1", "no user"),
        ("4294967295", "no user"),
        ("web:4294967295", "no group"),
        ("nonsense", "damaged"),
        ("broken", "no user"),
    ],
)
def test_users_that_are_not_there(tree: Path, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        resolve_user(tree, text)


def test_without_tables(tmp_path: Path) -> None:
    assert resolve_user(tmp_path, "").user.uid == 0
    assert resolve_user(tmp_path, "5:6").user.gid == 6
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").mkdir()
    assert resolve_user(tmp_path, "5").user.gid == 0


def test_the_tables_are_the_images(tree: Path) -> None:
    """Never the host's, whatever links say."""
    (tree / "usr").mkdir()
    (tree / "etc/passwd").rename(tree / "usr/passwd")
    (tree / "etc/passwd").symlink_to("/usr/passwd")
    assert resolve_user(tree, "web").user.uid == 33
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to("../../../../../../../etc/passwd")
    with pytest.raises(UsageError, match="no user 'root'"):
        resolve_user(tree, "root")


def test_what_is_added(tree: Path) -> None:
    (tree / "there").mkdir()
    (tree / "way").symlink_to("/there")
    root = Root(below=str(tree))
    for workdir in ("/", "/there", "/way", "/way/../there"):
        add_missing(root, tree, workdir)
    assert (set(root.directories), set(root.files)) == (set(), {b"/etc/hosts"})
    add_missing(root, tree, "/way/deep/er")
    assert set(root.directories) == {b"/there/deep/er"}
    own = Root(below=str(tree))
    (tree / "etc/hosts").write_text("10.0.0.1 other\n")
    add_missing(own, tree, "/")
    assert not own.files
