"""Who opens registries: the operator's file of logins, in the form that Docker and Apptainer write."""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_runner.environments.images.reference import DOCKER_HUB, Reference
from studio_runner.errors import EnvironmentUnavailableError

_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_FILE = "docker-config.json"
_RUNTIMES = (".apptainer", ".singularity")
_HINT = "The file of --registry-auth is what `docker login` writes: JSON with the logins under `auths`."


@dataclass(frozen=True, repr=False)
class Login:
    """User and password at one registry."""

    user: str
    password: str

    @property
    def basic(self) -> str:
        """As HTTP and Docker's files spell it."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody is to see."""
        return tuple(text for text in (self.password, self.basic) if text)


def login_in(file: Path | None, reference: Reference) -> Login | None:
    """The operator's login where the image is; the most precise name counts. EnvironmentUnavailableError when the
    file cannot be read."""
    if file is None or not reference.registry:
        return None
    wanted = f"{reference.registry}/{reference.repository}"
    found: tuple[int, Login] | None = None
    for name, entry in _entries(file).items():
        place = _place(name)
        if (wanted == place or wanted.startswith(f"{place}/")) and (login := _login(entry)):
            found = max(found or (0, login), (len(place), login), key=lambda one: one[0])
    return found[1] if found else None


def secrets_of_logins(file: Path) -> frozenset[str]:
    """What nobody is to see of it. EnvironmentUnavailableError when it cannot be read."""
    logins = filter(None, map(_login, _entries(file).values()))
    return frozenset(secret for login in logins for secret in login.secrets)


def write_login(home: Path, reference: Reference, login: Login) -> None:
    """Where the runtime looks for it, readable by this account only."""
    names: tuple[str, ...] = (reference.registry,)
    if reference.registry == DOCKER_HUB:
        names = ("docker.io", "https://index.docker.io/v1/")
    text = json.dumps({"auths": {name: {"auth": login.basic} for name in names}})
    for runtime in _RUNTIMES:
        (home / runtime).mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(home / runtime / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)


def _entries(file: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(file.read_bytes())
        entries = document.get("auths") or {}
    except (OSError, ValueError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON of that form"
        raise EnvironmentUnavailableError(
            f"The logins of registries in {file} cannot be read: {why}", hint=_HINT
        ) from error
    return entries if isinstance(entries, dict) else {}


def _place(name: str) -> str:
    """`HOST[:PORT][/PATH]`, without the scheme and the version of the API that Docker puts into names."""
    host, slash, path = name.rpartition("://")[2].rstrip("/").partition("/")
    host = DOCKER_HUB if host.lower() in _HUB_NAMES else host.lower()
    return host if path in ("v1", "v2") or not path else f"{host}{slash}{path}"


def _login(entry: Any) -> Login | None:
    if not isinstance(entry, dict):
        return None
    user, password = entry.get("username"), entry.get("password")
    if isinstance(auth := entry.get("auth"), str) and auth:
        try:
            user, _, password = base64.b64decode(auth).decode().partition(":")
        except ValueError:
            return None
    if not isinstance(user, str) or not isinstance(password, str) or not user:
        return None
    return Login(user, password)
