"""A registry of container images on loopback: read-only for its clients, filled by the tests, broken when they ask.

It speaks what pulling takes of the distribution API (`/v2/NAME/manifests/REFERENCE`, `/v2/NAME/blobs/DIGEST`) over
plain HTTP, with Docker's two ways of asking who somebody is.
"""

import base64
import contextlib
import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from servers.process import Server, free_ports

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
PIECE = 1 << 16
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")

Auth = Literal["none", "basic", "bearer"]


@dataclass
class Faults:
    """What goes wrong, until it is changed. `status` answers every request for a manifest or blob; blobs end after
    `cut_after` bytes, are served with a wrong byte in them (`damaged`), or stand still before their end until
    `released` is set."""

    status: int = 0
    cut_after: int = 0
    damaged: bool = False
    released: threading.Event | None = None


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    kind: str
    name: str
    reference: str


@dataclass
class Content:
    """All that can be pulled; registries may start with the same."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)

    def copy(self) -> "Content":
        return Content(dict(self.blobs), dict(self.manifests), dict(self.tags))

    def add_blob(self, body: bytes) -> str:
        digest = _digest(body)
        self.blobs[digest] = body
        return digest

    def add_manifest(self, name: str, tag: str, kind: str, document: dict[str, Any]) -> str:
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, **document}).encode()
        digest = _digest(body)
        self.manifests[digest] = kind, body
        self.tags[name, tag] = digest
        return digest


class Registry(Server):
    """Starts when entered, on the same port again with `start`. `user` and `password` are what it wants to see
    where `auth` is not `none`."""

    user = "somebody"
    password = "open/sesame"  # noqa: S105  # of a server that lives for one test

    def __init__(self, content: Content | None = None) -> None:
        self.auth: Auth = "none"
        self.content = content or Content()
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.serving = threading.Event()
        """Set when the first bytes of a blob have been sent."""
        (self.port,) = free_ports(1)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        registry = self

        class Handler(_Handler):
            owner = registry

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nobody listens any more, until `start`."""
        if self.faults.released:
            self.faults.released.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = self._thread = None

    def pulls(self, name: str) -> int:
        """How often the blobs of `name` were asked for, by their largest number for one of them."""
        wanted = [asked.reference for asked in self.asked if asked.kind == "blobs" and asked.name == name]
        return max((wanted.count(reference) for reference in wanted), default=0)

    def add_image(self, name: str, tag: str, sandbox: Path, *, architecture: str = "amd64") -> str:
        """A Docker image with one layer, made of a sandbox; its digest."""
        plain = _tar(sandbox)
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin", f"TAG={tag}"], "Cmd": ["python3"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(plain)]},
        }
        body = json.dumps(config).encode()
        return self.content.add_manifest(
            name,
            tag,
            DOCKER_MANIFEST,
            {
                "config": self._part(DOCKER_CONFIG, body),
                "layers": [self._part(DOCKER_LAYER, gzip.compress(plain, 1, mtime=0))],
            },
        )

    def add_list(self, name: str, tag: str, architecture: str) -> str:
        """An image of several architectures, of which there is only this one."""
        digest = self.content.tags[name, tag]
        _, body = self.content.manifests[digest]
        entry = {
            "mediaType": DOCKER_MANIFEST,
            "digest": digest,
            "size": len(body),
            "platform": {"architecture": architecture, "os": "linux"},
        }
        return self.content.add_manifest(name, tag, DOCKER_LIST, {"manifests": [entry]})

    def add_sif(self, name: str, tag: str, image: Path) -> str:
        """A SIF image as `oras://` has it; its digest."""
        layer = {
            **self._part(SIF_LAYER, image.read_bytes()),
            "annotations": {"org.opencontainers.image.title": image.name},
        }
        return self.content.add_manifest(
            name, tag, OCI_MANIFEST, {"config": self._part(SIF_CONFIG, b"{}"), "layers": [layer]}
        )

    def _part(self, kind: str, body: bytes) -> dict[str, Any]:
        return {"mediaType": kind, "digest": self.content.add_blob(body), "size": len(body)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are none of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Registry

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """What was asked is in the registry's own list."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/token":
            self._token()
        elif not self._known():
            self._unauthorised(path)
        elif path == "/v2/":
            self._answer(200, b"{}")
        elif found := _PATH.fullmatch(path):
            self._content(**found.groupdict())
        else:
            self._error(404, "NOT_FOUND")

    def _content(self, name: str, kind: str, reference: str) -> None:
        owner = self.owner
        owner.asked.append(Asked(self.command, kind, name, reference))
        if owner.faults.status:
            self._error(owner.faults.status, "FAULT")
        elif kind == "blobs":
            self._blob(reference)
        else:
            digest = owner.content.tags.get((name, reference), reference)
            if digest not in owner.content.manifests:
                self._error(404, "MANIFEST_UNKNOWN")
                return
            media, body = owner.content.manifests[digest]
            self._answer(200, body, {"Content-Type": media, "Docker-Content-Digest": digest})

    def _blob(self, digest: str) -> None:
        body, faults = self.owner.content.blobs.get(digest), self.owner.faults
        if body is None:
            self._error(404, "BLOB_UNKNOWN")
            return
        if faults.damaged and len(body) > PIECE:
            body = body[: PIECE - 1] + bytes([body[PIECE - 1] ^ 1]) + body[PIECE:]
        self._head(200, len(body), {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest})
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):  # the client has had enough
            self._send(body, faults)

    def _send(self, body: bytes, faults: Faults) -> None:
        end = faults.cut_after or len(body)
        for start in range(0, min(end, len(body)), PIECE):
            self.wfile.write(body[start : min(start + PIECE, end)])
            if faults.released is not None and len(body) > PIECE:
                self.owner.serving.set()
                faults.released.wait()
        if end < len(body):
            self.close_connection = True

    def _known(self) -> bool:
        match self.owner.auth:
            case "none":
                return True
            case "basic":
                return self.headers.get("Authorization") == f"Basic {_pair(self.owner)}"
            case "bearer":
                return self.headers.get("Authorization") == f"Bearer {_token(self.owner)}"

    def _unauthorised(self, path: str) -> None:
        found = _PATH.fullmatch(path)
        scope = f',scope="repository:{found["name"]}:pull"' if found else ""
        realm = f'Bearer realm="http://{self.owner.host}/token",service="test"{scope}'
        challenge = realm if self.owner.auth == "bearer" else 'Basic realm="test"'
        self._error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})

    def _token(self) -> None:
        if self.headers.get("Authorization") != f"Basic {_pair(self.owner)}":
            self._error(401, "UNAUTHORIZED")
            return
        self._answer(200, json.dumps({"token": _token(self.owner)}).encode())

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(status, json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _pair(registry: Registry) -> str:
    return base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()


def _token(registry: Registry) -> str:
    return hashlib.sha256(_pair(registry).encode()).hexdigest()


def _tar(directory: Path) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.add(directory, ".")
    return held.getvalue()
