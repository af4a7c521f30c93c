"""Images made by the test itself: layers from a few words, OCI layouts, and archives as `docker save` writes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
NAME = "org.opencontainers.image.ref.name"

Member = tuple[tarfile.TarInfo, bytes]


def entry(name: str, kind: bytes, data: bytes = b"", **fields: Any) -> Member:
    """One entry; fields are those of TarInfo, `xattrs` a mapping."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    info.mode = fields.pop("mode", 0o755 if kind == tarfile.DIRTYPE else 0o644)
    info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in fields.pop("xattrs", {}).items()}
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def file(name: str, data: bytes = b"", **fields: Any) -> Member:
    return entry(name, tarfile.REGTYPE, data, **fields)


def folder(name: str, **fields: Any) -> Member:
    return entry(name, tarfile.DIRTYPE, **fields)


def link(name: str, target: str, **fields: Any) -> Member:
    return entry(name, tarfile.SYMTYPE, linkname=target, **fields)


def hard(name: str, target: str, **fields: Any) -> Member:
    return entry(name, tarfile.LNKTYPE, linkname=target, **fields)


def layer(*members: Member) -> bytes:
    """A plain layer."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def compress(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 1)
    if how == "zstd":
        return subprocess.run(["zstd", "-cq"], input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    return data


def configuration(layers: Sequence[bytes], config: Mapping[str, Any] | None = None, arch: str = "amd64") -> bytes:
    rootfs = {"type": "layers", "diff_ids": [digest(one) for one in layers]}
    return json.dumps({"os": "linux", "architecture": arch, "config": config or {}, "rootfs": rootfs}).encode()


class Layout:
    """An OCI layout in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.index: list[dict[str, Any]] = []

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        """Add a blob; returns its descriptor."""
        named = digest(data)
        (self.path / "blobs" / named.replace(":", "/")).write_bytes(data)
        return {"mediaType": kind, "digest": named, "size": len(data)}

    def document(self, value: object, kind: str) -> dict[str, Any]:
        return self.blob(json.dumps(value).encode(), kind)

    def manifest(
        self,
        layers: Sequence[bytes],
        config: Mapping[str, Any] | None = None,
        *,
        arch: str = "amd64",
        how: str = "gzip",
        docker: bool = False,
    ) -> dict[str, Any]:
        """Add an image; returns its manifest's descriptor, which is in no index yet."""
        kinds = (DOCKER_LAYER, DOCKER_CONFIG, DOCKER_MANIFEST) if docker else (LAYER, CONFIG, MANIFEST)
        suffix = f"+{how}" if how and not docker else ""
        document = {
            "schemaVersion": 2,
            "mediaType": kinds[2],
            "config": self.blob(configuration(layers, config, arch), kinds[1]),
            "layers": [self.blob(compress(one, how), kinds[0] + suffix) for one in layers],
        }
        return self.document(document, kinds[2])

    def add(self, descriptor: dict[str, Any], tag: str = "", **more: Any) -> Layout:
        """Put a manifest into the index."""
        if tag:
            descriptor["annotations"] = {NAME: tag}
        self.index.append({**descriptor, **more})
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.index}))
        return self


def image(path: Path, *layers: bytes, config: Mapping[str, Any] | None = None, how: str = "gzip") -> Path:
    """A layout with one image."""
    layout = Layout(path)
    return layout.add(layout.manifest(layers, config, how=how), "latest").path


def docker_archive(
    path: Path, layers: Sequence[bytes], config: Mapping[str, Any] | None = None, tags: Iterable[str] = ("app:1",)
) -> Path:
    """What `docker save` wrote before version 25: each layer in a folder of its own; a repeated one is a link."""
    data = configuration(layers, config)
    members: list[Member] = []
    names: list[str] = []
    for number, one in enumerate(layers):
        name = f"{hashlib.sha256(f'{number}'.encode()).hexdigest()}/layer.tar"
        members.append(folder(name.partition("/")[0]))
        if one in layers[:number]:
            members.append(link(name, f"../{names[layers.index(one)]}"))
        else:
            members.append(file(name, one))
        names.append(name)
    config_name = f"{hashlib.sha256(data).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": list(tags), "Layers": names}]
    members += [file(config_name, data), file("manifest.json", json.dumps(manifest).encode())]
    path.write_bytes(layer(*members))
    return path


def archive_of(layout: Path, path: Path) -> Path:
    """An OCI archive: a layout in a tar file."""
    with tarfile.open(path, "w") as tar:
        for one in sorted(layout.rglob("*")):
            tar.add(one, str(one.relative_to(layout)), recursive=False)
    return path
