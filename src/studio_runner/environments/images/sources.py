"""The two kinds of sources: what a store has is brought, what a registry has is pulled."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from studio_runner.environments.images.logins import Login
from studio_runner.environments.images.reference import Reference

Bring = Callable[[Path], Awaitable[str]]
"""Puts a file or an unpacked tree into the directory and returns the SHA-256 of what came, in hexadecimal."""


@dataclass(frozen=True)
class StoredImage:
    """An artifact. Its identity says which version of it is meant, so that it never changes."""

    name: str
    identity: str
    bring: Bring = field(repr=False)


@dataclass(frozen=True)
class RegistryImage:
    """A reference. `login` is the sender's own, else the operator's file says."""

    reference: Reference
    login: Login | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.reference.address

    @property
    def identity(self) -> str:
        """Also by who asks for it: what one sender may have is not another's before the registry has said so."""
        whom = self.login.basic if self.login else ""
        return f"{self.reference.address} {whom}"
