"""skopeo, the other implementation: what it writes we read, what we make it reads; and a registry through it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pykrun.errors import ImageError
from pykrun.image import kept_images, open_image, remove
from tests.image import make
from tests.image.make import Layout, file, folder, layer

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo on PATH (apt-get install skopeo)")

LAYERS = (
    layer(folder("etc", mode=0o750), file("etc/name", b"one\n"), file("gone")),
    layer(file(".wh.gone"), file("etc/other", b"two\n")),
)
CONFIG = {"Cmd": ["/bin/sh"], "Env": ["A=1"]}


def skopeo(*words: str) -> None:
    command = ["skopeo", "--insecure-policy", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def check(reference: str) -> None:
    image = open_image(reference, arch="x86_64")
    found = sorted(str(path.relative_to(image.tree)) for path in image.tree.rglob("*"))
    assert found == ["etc", "etc/name", "etc/other"]
    assert (image.tree / "etc").stat().st_mode & 0o777 == 0o750
    assert image.config.command == ("/bin/sh",)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("oci:{}", []),
        ("oci:{}:some/name:1", []),
        ("oci-archive:{}", []),
        ("oci-archive:{}:1", []),
        ("docker-archive:{}", []),
        ("docker-archive:{}:some/name:1", []),
        ("oci:{}", ["--dest-compress-format", "zstd", "--dest-compress"]),
    ],
)
def test_what_skopeo_writes(tmp_path: Path, target: str, options: list[str]) -> None:
    source = make.image(tmp_path / "source", *LAYERS, config=CONFIG)
    there = target.format(tmp_path / "copy")
    skopeo("copy", *options, f"oci:{source}:latest", there)
    check(there)
    check(str(tmp_path / "copy"))


def test_what_we_make(tmp_path: Path) -> None:
    """The test's own images are images."""
    archive = make.docker_archive(tmp_path / "docker.tar", LAYERS, CONFIG)
    skopeo("copy", f"docker-archive:{archive}", f"oci:{tmp_path / 'oci'}:latest")
    check(str(tmp_path / "oci"))
    check(str(archive))


class Registry(BaseHTTPRequestHandler):
    """The pulling half of the distribution API (OCI distribution-spec 1.1), over a layout."""

    layout: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/v2/":
            return self._answer(b"{}", "application/json")
        match = re.fullmatch(r"/v2/app/(manifests|blobs)/(\S+)", self.path)
        if match is None:
            return self.send_error(404)
        name = match[2]
        if match[1] == "manifests" and not name.startswith("sha256:"):
            name = json.loads((self.layout / "index.json").read_text())["manifests"][0]["digest"]
        path = self.layout / "blobs" / name.replace(":", "/")
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        kind = json.loads(data).get("mediaType", "") if match[1] == "manifests" else "application/octet-stream"
        return self._answer(data, kind)

    do_HEAD = do_GET

    def _answer(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Docker-Content-Digest", make.digest(data))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, list[str]]]:
    """The host and port of a registry on this machine, its layout, and what it was asked for."""
    asked: list[str] = []
    layout = tmp_path / "registry"
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Registry,), {"layout": layout, "asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    (tmp_path / "home/.config/containers").mkdir(parents=True)
    configuration = f'[[registry]]\nlocation = "{host}"\ninsecure = true\n'
    (tmp_path / "home/.config/containers/registries.conf").write_text(configuration)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "home/.config/containers/registries.conf"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield host, layout, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_registry(tmp_path: Path, registry: tuple[str, Path, list[str]], cache: Path) -> None:
    """Pulled once, taken from the cache afterwards, asked again when that is wanted, removed by its name."""
    host, path, asked = registry
    layout = Layout(path)
    machines = []
    for arch in ("arm64", "amd64"):
        layers = LAYERS if arch == "amd64" else LAYERS[:1]
        one = layout.manifest(layers, CONFIG, arch=arch)
        machines.append({**one, "platform": {"os": "linux", "architecture": arch}})
    index = {"schemaVersion": 2, "mediaType": make.INDEX, "manifests": machines}
    layout.add(layout.document(index, make.INDEX))
    name = f"{host}/app:1"
    check(name)
    assert asked
    asked.clear()
    check(f"docker://{name}")
    assert not asked
    open_image(name, arch="x86_64", pull=True)
    assert asked
    assert [kept.names for kept in kept_images()] == [(name,)]
    remove(name)
    assert not any(list((cache / folder).iterdir()) for folder in ("trees", "pulled", "names", "new"))


def test_a_registry_that_lies(registry: tuple[str, Path, list[str]], cache: Path) -> None:
    host, path, _asked = registry
    layout = Layout(path)
    layout.add(layout.manifest(LAYERS, CONFIG))
    blob = max((path / "blobs/sha256").iterdir(), key=lambda one: one.read_bytes()[:2] == b"\x1f\x8b")
    data = blob.read_bytes()
    blob.write_bytes(data[:-9] + bytes(1) + data[-8:])
    with pytest.raises(ImageError, match=r"skopeo cannot copy .*/app:1"):
        open_image(f"{host}/app:1", arch="x86_64")
    assert not any(list((cache / folder).iterdir()) for folder in ("trees", "pulled", "names", "new"))


def test_no_such_image(registry: tuple[str, Path, list[str]]) -> None:
    host, _path, _asked = registry
    with pytest.raises(ImageError, match=r"skopeo cannot copy .*/nothing:1: "):
        open_image(f"{host}/nothing:1", arch="x86_64")


def test_who_means_a_file_hears_that_there_is_none(registry: tuple[str, Path, list[str]]) -> None:
    host, _path, _asked = registry
    with pytest.raises(ImageError) as caught:
        open_image(f"{host}/nope.tar", arch="x86_64")
    assert caught.value.hint == f"there is no file or folder {host}/nope.tar here"
