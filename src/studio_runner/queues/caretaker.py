"""What some runner has to do for a queue root as a whole: bring back what dead runners held, return delayed
messages that are due, remove what was left lying.

Every runner does it; each step is a rename that only one of them wins.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_runner.errors import BrokerError
from studio_runner.queues import moves
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.heartbeat import Roster
from studio_runner.queues.layout import (
    REASON_SUFFIX,
    ClaimName,
    DelayedName,
    QueuePlace,
    RootPlace,
    names_in,
)

log = logging.getLogger(__name__)

LEFT_BEHIND = 24 * 3600.0
"""Age in seconds at which an unfinished file belongs to nobody any more; far beyond any difference of clocks."""
PERMISSIONS = "give the runner's user permission to read, rename and remove what is there"


@dataclass(frozen=True)
class _Held:
    """A claim as found on disk."""

    place: QueuePlace
    path: Path
    name: ClaimName


class Caretaker:
    """Looks after one root."""

    def __init__(self, root: RootPlace, roster: Roster, complaints: Complaints) -> None:
        self._root = root
        self._roster = roster
        self._complaints = complaints

    def round(self) -> float:
        """Do what is to be done now; returns when (Unix time) the next delayed message is due, or infinity."""
        places = self._places()
        self._return_abandoned(places)
        return min((self._return_due(place) for place in places), default=float("inf"))

    def tidy(self) -> None:
        """Remove what killed processes left, unfinished messages and reasons without a dead letter, and the state
        of queues that are gone for good."""
        for place in self._places():
            for path in self._left_behind(place):
                self._remove_old(path)
            remove_unused(place)
        for name in self._names(self._root.runners):
            if name.startswith("."):
                self._remove_old(self._root.runners / name)

    def _places(self) -> list[QueuePlace]:
        try:
            return self._root.places_with_state()
        except BrokerError as error:
            self._complaints.once(self._root.root, str(error), error.hint or "")
            return []

    def _names(self, directory: Path) -> list[str]:
        try:
            return names_in(directory)
        except OSError as error:
            self._complaints.once(directory, f"cannot be read: {error.strerror}", PERMISSIONS)
            return []

    def _claims_in(self, place: QueuePlace) -> Iterator[_Held]:
        for name in self._names(place.claimed):
            claim = ClaimName.parse(name)
            if claim is not None:
                yield _Held(place, place.claimed / name, claim)

    def _return_abandoned(self, places: list[QueuePlace]) -> None:
        claims: dict[str, list[_Held]] = defaultdict(list)
        for place in places:
            for held in self._claims_in(place):
                claims[held.name.owner].append(held)
        for owner in self._roster.dead(claims):
            if self._return_claims(claims[owner]):
                self._bury(owner)

    def _bury(self, owner: str) -> None:
        try:
            self._roster.bury(owner)
        except OSError as error:
            heartbeat = self._root.runners / owner
            self._complaints.once(heartbeat, f"left behind and cannot be removed: {error.strerror}", PERMISSIONS)

    def _return_claims(self, claims: list[_Held]) -> bool:
        """False when some could not be returned."""
        complete = True
        for held in claims:
            try:
                returned = moves.put_back(held.place, held.path, held.name.message.charged)
            except OSError as error:
                complete = False
                self._complaints.once(held.path, f"not returned to its queue: {error.strerror}", PERMISSIONS)
                continue
            if returned:
                log.warning(
                    "message %s of queue %s came back: runner %s is gone",
                    held.name.message.base, held.place.name, held.name.owner,
                )  # fmt: skip
        return complete

    def _return_due(self, place: QueuePlace) -> float:
        next_due = float("inf")
        for name in self._names(place.delayed):
            delayed = DelayedName.parse(name)
            if delayed is None:
                continue
            if delayed.due > time.time() * 1000:
                next_due = min(next_due, delayed.due / 1000)
                continue
            try:
                moves.put_back(place, place.delayed / name, delayed.message)
            except OSError as error:
                self._complaints.once(
                    place.delayed / name, f"not returned to its queue: {error.strerror}", PERMISSIONS
                )
        return next_due

    def _left_behind(self, place: QueuePlace) -> Iterator[Path]:
        letters = set(self._names(place.dead))
        for name in letters:
            if name.endswith(REASON_SUFFIX) and name.removesuffix(REASON_SUFFIX) not in letters:
                yield place.dead / name
        for name in self._names(place.incoming):
            yield place.incoming / name

    def _remove_old(self, path: Path) -> None:
        try:
            if time.time() - path.lstat().st_mtime > LEFT_BEHIND:
                path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self._complaints.once(path, f"left behind and cannot be removed: {error.strerror}", PERMISSIONS)


def remove_unused(place: QueuePlace) -> None:
    """Remove the state of a queue that was deleted, unless something is still in it."""
    if place.messages.exists():
        return
    for directory in (place.claimed, place.delayed, place.dead, place.incoming, place.claimed.parent):
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return  # something is in it
