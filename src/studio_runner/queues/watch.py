"""Being told by the kernel when something appears in a directory.

Only a hint: it is silent on network file systems for what other machines do, and absent outside Linux. Whoever uses
it also looks at regular times.
"""

import asyncio
import sys
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from studio_runner.queues.complaints import Complaints

if TYPE_CHECKING:
    from asyncinotify import Event, Inotify

Listener = Callable[[str | None], None]
"""Called with the name that appeared, changed or vanished; None: anything may have."""


class Interest(Enum):
    """What a listener wants to know of a directory."""

    MESSAGES = auto()
    QUEUES = auto()


class Watch(Protocol):
    """Tells listeners about directories."""

    def arm(self, directory: Path, interest: Interest, listener: Listener) -> None:
        """Tell `listener` about this directory from now on. Cheap to repeat, and to be repeated after the directory
        was made anew."""
        ...

    def disarm(self, listener: Listener) -> None: ...

    async def run(self) -> None:
        """Pass on what happens, until cancelled."""
        ...

    def close(self) -> None: ...


def open_watch(complaints: Complaints) -> Watch:
    """The best watch there is here."""
    if sys.platform != "linux":
        return Blind()
    try:
        return InotifyWatch.open(complaints)
    except OSError as error:
        complaints.once(
            "inotify",
            f"not available: {error.strerror}",
            "new messages are noticed at regular looks only; raise fs.inotify.max_user_instances",
        )
        return Blind()


class Blind:
    """No notification at all."""

    def arm(self, directory: Path, interest: Interest, listener: Listener) -> None:
        """Nothing to arm."""

    def disarm(self, listener: Listener) -> None:
        """Nothing was armed."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def close(self) -> None:
        """Nothing is open."""


class InotifyWatch:
    """One inotify instance for all directories."""

    def __init__(self, inotify: "Inotify", complaints: Complaints) -> None:
        self._inotify = inotify
        self._complaints = complaints
        self._listeners: dict[int, set[Listener]] = {}

    @classmethod
    def open(cls, complaints: Complaints) -> Self:
        from asyncinotify import Inotify  # noqa: PLC0415 - ctypes and more, needed by runners only

        return cls(Inotify(), complaints)

    def arm(self, directory: Path, interest: Interest, listener: Listener) -> None:
        from asyncinotify import Mask  # noqa: PLC0415

        if interest is Interest.MESSAGES:
            # There when its writer closes it or renames it into place; what is deleted may be a lock.
            wanted = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.DELETE
        else:
            wanted = Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE
        try:
            descriptor = self._inotify.add_watch(directory, wanted | Mask.ONLYDIR).wd
        except FileNotFoundError:
            return
        except OSError as error:
            self._complaints.once(
                directory,
                f"cannot be watched: {error.strerror}",
                "new messages are noticed at regular looks only; raise fs.inotify.max_user_watches",
            )
            return
        self._listeners.setdefault(descriptor, set()).add(listener)

    def disarm(self, listener: Listener) -> None:
        for listeners in self._listeners.values():
            listeners.discard(listener)

    async def run(self) -> None:
        async for event in self._inotify:
            self._pass_on(event)

    def _pass_on(self, event: "Event") -> None:
        from asyncinotify import Mask  # noqa: PLC0415

        if event.mask & Mask.Q_OVERFLOW:
            told = {listener for listeners in self._listeners.values() for listener in listeners}
        elif event.watch is None:
            return
        elif event.mask & Mask.IGNORED:
            told = self._listeners.pop(event.watch.wd, set())
        else:
            told = self._listeners.get(event.watch.wd, set())
        name = str(event.name) if event.name is not None else None
        for listener in list(told):
            listener(name)

    def close(self) -> None:
        self._inotify.close()
