"""References to images: `docker://`, `dockerhub://`, `oras://`, `library://` and `shub://` addresses."""

import re
from dataclasses import dataclass, replace

from studio_runner.errors import EnvironmentFailedError

DOCKER_HUB = "docker.io"
REGISTRIES = frozenset({"docker", "oras"})
"""Schemes of registries that speak the distribution API; the others are only known to the runtime."""

_SCHEMES = {"docker": "docker", "dockerhub": "docker", "oras": "oras", "library": "library", "shub": "shub"}
_HOST = re.compile(r"localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_OTHER = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._:/@+-]*")
_PINNED = re.compile(r"[:@.](sha256[.:])?[0-9a-f]{32,}$")
_HINT = "a reference is SCHEME://[REGISTRY/]NAME[:TAG] or SCHEME://[REGISTRY/]NAME@sha256:DIGEST"


@dataclass(frozen=True)
class Reference:
    """One image at a registry. `scheme` is docker, oras, library or shub; of the last two `repository` is all that
    follows it, and `registry`, `tag` and `digest` are empty."""

    scheme: str
    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, scheme: str, rest: str) -> "Reference":
        """From the two sides of `://`. EnvironmentFailedError when that names no image."""
        kind = _SCHEMES[scheme]
        if kind not in REGISTRIES:
            if not _OTHER.fullmatch(rest) or ".." in rest.split("/"):
                raise _no_reference(scheme, rest)
            return cls(kind, "", rest)
        name, _, digest = rest.lstrip("/").partition("@")
        path, _, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        registry, repository = _split(f"{path}/{last}" if path else last)
        found = cls(kind, registry, repository, tag or ("" if digest else "latest"), digest)
        if (colon and not tag) or ("@" in rest and not digest) or not found._valid():
            raise _no_reference(scheme, rest)
        return found

    def _valid(self) -> bool:
        return bool(
            _HOST.fullmatch(self.registry)
            and _REPOSITORY.fullmatch(self.repository)
            and (not self.tag or _TAG.fullmatch(self.tag))
            and (not self.digest or _DIGEST.fullmatch(self.digest))
        )

    @property
    def address(self) -> str:
        """In full, as a runtime and a list of allowed sources understand it."""
        name = f"{self.registry}/{self.repository}" if self.registry else self.repository
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.scheme}://{name}{tag}{digest}"

    @property
    def pinned(self) -> bool:
        """Whether it can never mean another image."""
        return bool(self.digest) or (self.scheme not in REGISTRIES and bool(_PINNED.search(self.repository)))

    def pin(self, digest: str) -> "Reference":
        """The same image, by what it is and not by its name."""
        return replace(self, tag="", digest=digest)


def is_reference(scheme: str) -> bool:
    """Whether addresses of this scheme are pulled by a container runtime."""
    return scheme in _SCHEMES


def _split(name: str) -> tuple[str, str]:
    """Registry and repository, with what Docker leaves out put in."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, repository = first.lower(), rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _no_reference(scheme: str, rest: str) -> EnvironmentFailedError:
    # What stands before an `@` may be a password.
    shown = re.sub(r"^[^/@]*@(?!sha256:)", "***@", rest)[:100]
    return EnvironmentFailedError(f"{scheme}://{shown} is no reference to an image", hint=_HINT)
