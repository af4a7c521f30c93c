"""Where images come from: layouts and archives of each kind, the choice of one image, and damage of each kind."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from pykrun.errors import ImageError, MissingError, UsageError
from pykrun.image import open_image
from tests.image import make
from tests.image.make import Layout

ONE = make.layer(make.folder("etc"), make.file("etc/name", b"one\n"))
TWO = make.layer(make.file("etc/other", b"two\n"))
CONFIG = {"Entrypoint": ["/bin/sh"], "Env": ["A=1"], "User": "5:6", "WorkingDir": "/etc", "StopSignal": "SIGQUIT"}


def check(reference: str | Path) -> None:
    image = open_image(str(reference), arch="x86_64")
    assert (image.tree / "etc/name").read_bytes() == b"one\n"
    assert (image.tree / "etc/other").read_bytes() == b"two\n"
    assert image.config.entrypoint == ("/bin/sh",)
    assert (image.config.user, image.config.workdir, image.config.stop_signal) == ("5:6", "/etc", 3)
    assert image.config.environment == {"A": "1"}


@pytest.mark.parametrize("how", ["", "gzip", "zstd"])
def test_oci_layout(tmp_path: Path, how: str) -> None:
    if how == "zstd" and shutil.which("zstd") is None:
        pytest.skip("no zstd on PATH (apt-get install zstd)")
    path = make.image(tmp_path / "layout", ONE, TWO, config=CONFIG, how=how)
    check(path)
    check(f"oci:{path}")
    check(f"oci:{path}:latest")


def test_docker_media_types(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest([ONE, TWO], CONFIG, docker=True))
    check(layout.path)


def test_archives(tmp_path: Path) -> None:
    layout = make.image(tmp_path / "layout", ONE, TWO, config=CONFIG)
    oci = make.archive_of(layout, tmp_path / "oci.tar")
    docker = make.docker_archive(tmp_path / "docker.tar", [ONE, TWO, TWO], CONFIG)
    packed = tmp_path / "docker.tar.gz"
    packed.write_bytes(gzip.compress(docker.read_bytes()))
    for reference in (oci, f"oci-archive:{oci}:latest", docker, f"docker-archive:{docker}:app:1", packed):
        check(reference)


def test_one_tree_for_the_same_content(tmp_path: Path) -> None:
    first = open_image(str(make.image(tmp_path / "a", ONE, TWO)), arch="x86_64")
    second = open_image(str(make.image(tmp_path / "b", ONE, TWO, how="", config=CONFIG)), arch="x86_64")
    other = open_image(str(make.image(tmp_path / "c", TWO, ONE)), arch="x86_64")
    assert first.tree == second.tree != other.tree


def test_the_image_for_the_machine(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    platforms = []
    for arch, content in (("arm64", TWO), ("amd64", ONE)):
        platforms.append({**layout.manifest([content], arch=arch), "platform": {"os": "linux", "architecture": arch}})
    noise = {**layout.manifest([TWO]), "platform": {"os": "unknown", "architecture": "unknown"}}
    nested = {"schemaVersion": 2, "mediaType": make.INDEX, "manifests": [noise, *platforms]}
    layout.add(layout.document(nested, make.INDEX), "latest")
    assert (open_image(str(layout.path), arch="x86_64").tree / "etc/name").exists()
    assert (open_image(str(layout.path), arch="aarch64").tree / "etc/other").exists()
    with pytest.raises(ImageError, match=r"has nothing for riscv64.*amd64, arm64"):
        open_image(str(layout.path), arch="riscv64")


def test_another_machines_image(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest([ONE], arch="arm64"))
    with pytest.raises(ImageError, match=r"is an image for arm64, the guest is amd64.*--arch"):
        open_image(str(layout.path), arch="x86_64")


def test_one_of_several(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add(layout.manifest([ONE]), "one").add(layout.manifest([TWO]), "registry.example/two:2")
    assert (open_image(f"{layout.path}:one", arch="x86_64").tree / "etc/name").exists()
    assert (open_image(f"oci:{layout.path}:2", arch="x86_64").tree / "etc/other").exists()
    for reference, words in ((str(layout.path), "several images"), (f"{layout.path}:three", "no image 'three'")):
        with pytest.raises(UsageError, match=f"{words}.*append one of: :one, :registry.example/two:2"):
            open_image(reference, arch="x86_64")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("/nowhere/at/all", "No such file"),
        ("oci:", "names no folder"),
        ("docker-archive:", "names no file"),
        ("Not A Name", "is no file, folder or image name"),
        ("-rf", "is no file, folder or image name"),
        ("docker://--help", "is no file, folder or image name"),
        ("docker-archive:/dev/null", "neither a file nor a directory"),
        ("/dev", "no index.json"),
        ("oci-archive:/dev", "neither a file nor a directory"),
    ],
)
def test_no_image(reference: str, reason: str) -> None:
    with pytest.raises((UsageError, ImageError), match=reason):
        open_image(reference)


def test_without_skopeo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingError, match=r"debian:12 is neither a file.*apt-get install skopeo"):
        open_image("debian:12")


def test_without_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd on PATH (apt-get install zstd)")
    path = make.image(tmp_path / "layout", ONE, how="zstd")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingError, match="apt-get install zstd"):
        open_image(str(path), arch="x86_64")


def blobs(layout: Path) -> dict[str, Path]:
    """The blobs of an image with one layer, by what they are."""
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    found = {"manifest": layout / "blobs" / manifest.replace(":", "/")}
    document = json.loads(found["manifest"].read_text())
    found["config"] = layout / "blobs" / document["config"]["digest"].replace(":", "/")
    found["layer"] = layout / "blobs" / document["layers"][0]["digest"].replace(":", "/")
    return found


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
@pytest.mark.parametrize("how", ["missing", "shorter", "longer", "changed", "folder"])
def test_damage(tmp_path: Path, cache: Path, which: str, how: str) -> None:
    layout = make.image(tmp_path / "layout", ONE)
    blob = blobs(layout)[which]
    data = blob.read_bytes()
    blob.unlink()
    if how == "folder":
        blob.mkdir()
    elif how != "missing":
        middle = len(data) // 2
        changed = data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]
        blob.write_bytes({"shorter": data[:-1], "longer": data + b" ", "changed": changed}[how])
    with pytest.raises(ImageError, match=r"damaged|incomplete|is no file"):
        open_image(str(layout), arch="x86_64")
    assert not list((cache / "trees").glob("*"))
    assert not list((cache / "new").glob("*"))


@pytest.mark.parametrize("how", ["", "gzip"])
def test_a_layer_that_is_another_than_the_configuration_says(tmp_path: Path, cache: Path, how: str) -> None:
    layout = Layout(tmp_path / "layout")
    descriptor = layout.manifest([ONE], how=how)
    path = layout.path / "blobs" / descriptor["digest"].replace(":", "/")
    document = json.loads(path.read_text())
    document["config"] = layout.blob(make.configuration([TWO]), make.CONFIG)
    layout.add(layout.document(document, make.MANIFEST))
    with pytest.raises(ImageError, match="layer 1 is damaged: it has another content than sha256:"):
        open_image(str(layout.path), arch="x86_64")
    assert not list((cache / "trees").glob("*"))


def test_a_damaged_docker_archive(tmp_path: Path) -> None:
    good = make.docker_archive(tmp_path / "good.tar", [ONE]).read_bytes()
    for old, new, reason in (
        (b"one\n", b"two\n", "another content"),
        (b'"amd64"', b'"amd65"', "another content"),
        (b"layer.tar", b"other.tar", "is missing"),
        (b"manifest.json", b"manifest.jsom", "no archive|no image"),
    ):
        assert old in good
        bad = tmp_path / "bad.tar"
        where = good.rindex(old) if old == b"layer.tar" else good.index(old)
        bad.write_bytes(repair(good[:where] + new + good[where + len(old) :]))
        with pytest.raises(ImageError, match=reason):
            open_image(str(bad), arch="x86_64")


def repair(data: bytes) -> bytes:
    """Right checksums for all headers of an archive whose layers are tar files too."""
    blocks = bytearray(data)
    for at in range(0, len(blocks), 512):
        if blocks[at + 257 : at + 262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])
    return bytes(blocks)


@pytest.mark.parametrize("cut", [1, 100, 512, 1000])
def test_a_truncated_archive(tmp_path: Path, cut: int) -> None:
    good = make.docker_archive(tmp_path / "good.tar", [ONE, TWO]).read_bytes()
    bad = tmp_path / "bad.tar"
    bad.write_bytes(good[: len(good.rstrip(b"\0")) - cut])
    with pytest.raises(ImageError):
        open_image(str(bad), arch="x86_64")


DOCUMENTS = {
    "index": b"[]",
    "deep": b"[" * 100_000,
    "manifests": b'{"manifests": 3}',
    "entry": b'{"manifests": [3]}',
    "empty": b'{"manifests": []}',
    "digest": b'{"manifests": [{"digest": "sha256:../../../../etc/passwd", "size": 1}]}',
    "algorithm": b'{"manifests": [{"digest": "md5:00", "size": 1}]}',
    "size": b'{"manifests": [{"digest": "sha256:%s", "size": -1}]}' % (b"0" * 64),
    "boolean": b'{"manifests": [{"digest": "sha256:%s", "size": true}]}' % (b"0" * 64),
    "large": b'{"manifests": [], "x": "' + b"x" * (5 << 20) + b'"}',
    "utf-8": b'{"manifests": "\xff"}',
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_index_that_makes_no_sense(tmp_path: Path, name: str) -> None:
    layout = make.image(tmp_path / "layout", ONE)
    (layout / "index.json").write_bytes(DOCUMENTS[name])
    with pytest.raises(ImageError):
        open_image(str(layout), arch="x86_64")


@pytest.mark.parametrize(
    "config",
    [
        {"Env": "A=1"},
        {"Env": ["A"]},
        {"Env": ["=1"]},
        {"Env": [1]},
        {"Env": ["A=\0"]},
        {"Cmd": {"a": 1}},
        {"Entrypoint": "sh"},
        {"User": 5},
        {"WorkingDir": ["/"]},
        {"StopSignal": "SIGNOTHING"},
        {"StopSignal": "99999"},
        {"StopSignal": "0"},
        {"StopSignal": "SIG_IGN"},
        {"StopSignal": "RTMIN+99"},
    ],
)
def test_a_configuration_that_makes_no_sense(tmp_path: Path, config: dict[str, object]) -> None:
    path = make.image(tmp_path / "layout", ONE, config=config)
    with pytest.raises(ImageError):
        open_image(str(path), arch="x86_64")


def test_indexes_without_end(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    descriptor = layout.manifest([ONE])
    for _ in range(6):
        descriptor = layout.document({"mediaType": make.INDEX, "manifests": [descriptor]}, make.INDEX)
    layout.add(descriptor)
    with pytest.raises(ImageError, match="too deep"):
        open_image(str(layout.path), arch="x86_64")
