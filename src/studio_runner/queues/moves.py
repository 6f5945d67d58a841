"""Every change of a message's state on disk: one rename each, so exactly one of several runners makes it.

The modification time travels with the file, which is what gives a returned message its old place in the queue.
"""

import json
import logging
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from studio_runner.errors import BrokerError
from studio_runner.process.modes import make_directories, share_file
from studio_runner.queues.layout import REASON_SUFFIX, DelayedName, MessageName, QueuePlace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parting:
    """Why a message is set aside, and where that happened."""

    reason: str
    runner: str


def move(source: Path, target: Path) -> bool:
    """Rename, making the target's directory when it is missing. False when `source` is gone: somebody else was
    first."""
    try:
        source.rename(target)
    except FileNotFoundError:
        if not source.exists():
            # Over NFS a rename that was answered twice says "not found" although it was ours.
            return target.exists()
        make_directories(str(target.parent))
        return _second_try(source, target)
    return True


def _second_try(source: Path, target: Path) -> bool:
    try:
        source.rename(target)
    except FileNotFoundError:
        return target.exists()
    return True


def put_back(place: QueuePlace, source: Path, message: MessageName) -> bool:
    """Return a message to its queue. False when somebody else took it from where it was.

    When the queue was deleted meanwhile nobody wants it run again: it is kept with the dead letters.
    """
    if not place.messages.is_dir():
        return set_aside(place, source, message, Parting("its queue was deleted", ""))
    return move(source, _unused(place.messages, message))


def postpone(place: QueuePlace, source: Path, message: MessageName, delay: float) -> bool:
    """Let a message wait for `delay` seconds."""
    due = int((time.time() + delay) * 1000)
    return move(source, place.delayed / DelayedName(due, message).file_name)


def set_aside(place: QueuePlace, source: Path, message: MessageName, parting: Parting) -> bool:
    """Make a message a dead letter. The reason is written first, so that a dead letter has one from the start; a
    reason without its message (we died in between) means nothing."""
    target = _unused(place.dead, _not_a_reason(message))
    reason_file = target.with_name(target.name + REASON_SUFFIX)
    note = {"reason": parting.reason, "at": time.time(), "attempts": message.attempts, "runner": parting.runner}
    try:
        write_whole(place.incoming, reason_file, json.dumps(note, indent=1).encode())
    except OSError as error:
        # A full disk must not send the message round for ever.
        log.warning("reason of dead letter %s not kept (%s): %s", target, error.strerror, parting.reason)
    if move(source, target):
        return True
    reason_file.unlink(missing_ok=True)
    return False


def write_whole(scratch: Path, target: Path, content: bytes) -> None:
    """Write a file that is on the disk, and whole, before anybody sees it under its name."""
    make_directories(str(scratch))
    make_directories(str(target.parent))
    temporary = scratch / uuid.uuid4().hex
    try:
        with temporary.open("xb") as file:
            share_file(file.fileno(), str(target.parent))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def broker_error(doing: str, place: QueuePlace, error: OSError) -> BrokerError:
    """The project's error for a file system that refuses."""
    return BrokerError(
        f"queue {place.name}: {doing} failed: {error.strerror or error} ({error.filename or place.messages})",
        hint="check the free space and the permissions of the queue root; all of it must be on one file system",
    )


def _unused(directory: Path, message: MessageName) -> Path:
    """A path for the message under which nothing lies yet (a client may use a name twice)."""
    path = directory / message.file_name
    while os.path.lexists(path):
        path = directory / message._replace(base=f"{message.base[:80]}-{uuid.uuid4().hex[:8]}").file_name
    return path


def _not_a_reason(message: MessageName) -> MessageName:
    if message.file_name.endswith(REASON_SUFFIX):
        return message._replace(base=message.base + "_")
    return message
