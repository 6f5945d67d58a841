"""What people do with a local queue: count it, read its dead letters, put them back, withdraw an experiment."""

import errno
import os
from datetime import UTC, datetime
from pathlib import Path

from studio_runner.messages.jsontext import loads
from studio_runner.messages.naming import is_called
from studio_runner.process.modes import make_directories
from studio_runner.queues import moves
from studio_runner.queues.base import DeadLetter, QueueStatus
from studio_runner.queues.caretaker import remove_unused
from studio_runner.queues.layout import (
    REASON_SUFFIX,
    ClaimName,
    DelayedName,
    MessageName,
    QueuePlace,
    is_message_name,
    names_in,
)
from studio_runner.queues.reading import read_message


def status(place: QueuePlace) -> QueueStatus:
    """Depths, as the names of files tell them."""
    return QueueStatus(
        name=place.name,
        waiting=len(_waiting(place)),
        claimed=sum(ClaimName.parse(name) is not None for name in names_in(place.claimed)),
        delayed=sum(DelayedName.parse(name) is not None for name in names_in(place.delayed)),
        dead=len(_letters(place)),
    )


def dead_letters(place: QueuePlace) -> list[DeadLetter]:
    """Oldest death first."""
    found = [_dead_letter(place, path) for path in _letters(place)]
    return sorted((letter for letter in found if letter is not None), key=lambda letter: (letter.at, letter.name))


def revive(place: QueuePlace, name: str | None) -> int:
    """Put dead letters back with a fresh budget."""
    revived = 0
    for path in _letters(place):
        if name not in (None, path.name):
            continue
        fresh = MessageName.parse(path.name)._replace(attempts=0)
        make_directories(str(place.messages))
        if moves.put_back(place, path, fresh):
            revived += 1
            _reason_file(path).unlink(missing_ok=True)
    return revived


def withdraw(place: QueuePlace, name: str) -> bool:
    """Remove the message of this name, unless a runner was faster."""
    delayed = [place.delayed / found for found in names_in(place.delayed)]
    for path in [*_waiting(place), *delayed]:
        if _is_called(path, name):
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            return True
    return False


def remove(place: QueuePlace) -> bool:
    """Delete a queue with nothing to do, and its state as far as nothing is in it."""
    if _waiting(place) or names_in(place.claimed) or names_in(place.delayed):
        return False
    try:
        place.messages.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    remove_unused(place)
    return True


def _waiting(place: QueuePlace) -> list[Path]:
    try:
        with os.scandir(place.messages) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if is_message_name(entry.name) and entry.is_file(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []


def _letters(place: QueuePlace) -> list[Path]:
    return [place.dead / name for name in sorted(names_in(place.dead)) if not name.endswith(REASON_SUFFIX)]


def _dead_letter(place: QueuePlace, path: Path) -> DeadLetter | None:
    """None when it was revived or removed at this moment."""
    try:
        content, died = read_message(path).body, path.lstat().st_ctime
    except FileNotFoundError:
        return None
    reason, at = _reason(path, died)
    return DeadLetter(place.name, path.name, reason, at, MessageName.parse(path.name).attempts, content or b"")


def _reason(letter: Path, otherwise: float) -> tuple[str, datetime]:
    try:
        note = loads(read_message(_reason_file(letter)).body or b"")
        return str(note["reason"]), datetime.fromtimestamp(float(note["at"]), UTC)
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return "the reason was not kept", datetime.fromtimestamp(otherwise, UTC)


def _reason_file(letter: Path) -> Path:
    return letter.with_name(letter.name + REASON_SUFFIX)


def _is_called(path: Path, name: str) -> bool:
    try:
        body = read_message(path).body
    except OSError:
        return False
    return body is not None and is_called(body, name)
