"""Where `file://` addresses and local databases of messages may lead on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from studio_runner.config.settings import Settings


@dataclass(frozen=True)
class Reach:
    """`roots` and everything below them; None: wherever this account may go."""

    roots: tuple[Path, ...] | None = None

    def allows(self, directory: str | Path) -> bool:
        """Whether it is below one of them, links followed."""
        if self.roots is None:
            return True
        real = Path(os.path.realpath(directory))
        return any(real.is_relative_to(os.path.realpath(root)) for root in self.roots)


ANYWHERE = Reach()


def reach_of(settings: Settings) -> Reach:
    """The runner reads and writes artifacts itself: a container keeps nobody from what an address names. So where
    containers are required, nothing but the store may be named unless the operator says what."""
    directories = tuple(map(Path, settings.storage.directories))
    if not directories and not settings.containers.require:
        return ANYWHERE
    return Reach((settings.places.store, *directories))
