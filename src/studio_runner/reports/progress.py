"""What an attempt makes of its experiment's record (INTERFACE section 6), as functions over JSON objects.

All that an attempt has to say is kept together and written as a whole each time: a client that writes the record
back as it had read it before, or a write that failed, takes nothing away for good.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, assert_never

from studio_runner.errors import Reason
from studio_runner.process.hidden import Cover
from studio_runner.reports.base import Checkpointed, Ended, Event, Reserved, StageEntered, Started, Subject
from studio_runner.reports.records import OWN, merge, without_credentials

Changes = Mapping[str, Any]

MOST_ATTEMPTS = 20
"""Attempts that a record tells of, the last ones."""

_ATTEMPTS = "attempts"


def noted(changes: Changes, event: Event) -> Changes:
    """`changes` of an attempt so far, and what this event adds."""
    match event:
        case Started():
            return _started(event)
        case StageEntered():
            return _with(changes, {OWN: {"stage": event.stage}})
        case Checkpointed():
            return _with(changes, {"time_last_checkpoint": event.at, OWN: _hidden(event.cover)})
        case Ended() if event.reason is Reason.LEASE_LOST:
            # everything else in the record is its successor's
            return {OWN: {_ATTEMPTS: [_end_of_attempt(event, changes)]}}
        case Ended():
            return _with(changes, _ended(event, changes))
    assert_never(event)


def applied(document: Mapping[str, Any], changes: Changes, subject: Subject) -> dict[str, Any]:
    """The record with what an attempt has to say.

    Nothing but its history where a later attempt has spoken since; and a stop that somebody asked for stays until
    the experiment is over.
    """
    own = dict(changes.get(OWN, {}))
    entries, before = own.pop(_ATTEMPTS, []), _attempts(document)
    history = {_ATTEMPTS: _history(before, entries)}
    if _superseded(document, before, entries):
        return merge(document, {OWN: history})
    rest = {**changes, OWN: {**own, **history}}
    if rest.get("status") in ("running", "waiting") and stop_requested(document, subject):
        rest = {name: value for name, value in rest.items() if name not in ("status", "time_finished")}
    return merge(document, rest)


def begun(subject: Subject) -> dict[str, Any]:
    """The record of an experiment that has none: the message's experiment object, with the fields that existing
    clients do not go without."""
    bare: dict[str, Any] = {
        "filename": None,
        "pythonenv": [],
        "artifacts": {},
        "status": "waiting",
        "time_added": None,
    }
    return {"key": subject.key, **bare, **without_credentials(subject.experiment)}


def stop_requested(document: Mapping[str, Any], subject: Subject) -> bool:
    """Somebody set the status to `stopped`, since the experiment was submitted.

    Our own `stopped` comes with the time it took effect: to the next delivery of the same message it still holds.
    """
    if document.get("status") != "stopped":
        return False
    added, ours = document.get("time_added"), subject.experiment.get("time_added")
    if _is_time(added) and _is_time(ours) and added < ours:
        return False
    finished = document.get("time_finished")
    if finished is None:
        return True
    earlier = _own(document).get("attempt")
    return (
        isinstance(earlier, int)
        and earlier < subject.number
        and _is_time(finished)
        and not (_is_time(ours) and finished < ours)
    )


def _started(event: Started) -> Changes:
    own = {**_whereabouts(event.subject), "stage": "prepare", "reason": None, "sentence": None}
    if event.subject.number == 1:  # what is stored during later ones is for now of the one before
        own |= _hidden(Cover(0, ()))
    reserved = {"reserved": _share(event.reserved)} if event.reserved else {}
    entry = {**_attempt(event.subject), "started": event.at, **reserved}
    return {
        "status": "running",
        "time_started": event.at,
        "time_finished": None,
        OWN: {**own, _ATTEMPTS: [entry]},
    }


def _share(reserved: Reserved) -> dict[str, Any]:
    share = {"cores": reserved.cores, "memory": reserved.memory, "disk": reserved.disk}
    gpus = [{"uuid": uuid, "name": name} for uuid, name in reserved.gpus]
    fraction = {"gpu_fraction": reserved.gpu_fraction} if reserved.gpu_fraction > 1 else {}
    return {**share, "gpus": gpus, **fraction}


def _ended(event: Ended, changes: Changes) -> Changes:
    own = {
        **_whereabouts(event.subject),
        "directory": None,
        "stage": None,
        "reason": event.reason.value,
        "sentence": event.sentence,
        "exit_code": event.exit_code,
        "signal": event.signal,
        "peak_memory": event.peak_memory,
        "cpu_seconds": event.cpu_seconds,
        **_hidden(event.cover),
        _ATTEMPTS: [_end_of_attempt(event, changes)],
    }
    if not event.final:
        return {"status": "waiting", OWN: own}
    status = "stopped" if event.reason is Reason.STOPPED else "finished"
    return {"status": status, "time_finished": event.at, OWN: own}


def _hidden(cover: Cover | None) -> dict[str, Any]:
    return {} if cover is None else {"hidden": cover.document()}


def _whereabouts(subject: Subject) -> dict[str, Any]:
    return {
        "queue": subject.queue,
        "host": subject.host,
        "attempt": subject.number,
        "directory": str(subject.directory) if subject.directory else None,
    }


def _attempt(subject: Subject) -> dict[str, Any]:
    return {"number": subject.number, "host": subject.host, "runner": subject.runner}


def _end_of_attempt(event: Ended, changes: Changes) -> dict[str, Any]:
    """`changes` of the attempt so far tell what it had."""
    begun = changes.get(OWN, {}).get(_ATTEMPTS) or [{}]
    reserved = {"reserved": begun[-1]["reserved"]} if "reserved" in begun[-1] else {}
    return {
        **_attempt(event.subject),
        **reserved,
        "started": event.started,
        "ended": event.at,
        "reason": event.reason.value,
        "sentence": event.sentence,
    }


def _with(changes: Changes, more: Changes) -> Changes:
    own, added = dict(changes.get(OWN, {})), dict(more.get(OWN, {}))
    return {**changes, **more, OWN: {**own, **added}}


def _superseded(document: Mapping[str, Any], before: Sequence[Changes], entries: Sequence[Changes]) -> bool:
    """A later attempt has taken the record over: it has a higher number, and began later."""
    if not before or not entries:
        return False
    last, ours = before[-1], entries[-1]
    number, start, our_start = last.get("number"), last.get("started"), ours.get("started")
    if not isinstance(number, int) or not _is_time(start) or not _is_time(our_start):
        return False
    return number > ours["number"] and start > our_start and _own(document).get("attempt") == number


def _history(before: Sequence[Changes], entries: Sequence[Changes]) -> list[Changes]:
    found = list(before)
    for entry in entries:
        place = next((index for index, old in enumerate(found) if _same(old, entry)), len(found))
        found[place:] = [entry, *found[place + 1 :]]
    return found[-MOST_ATTEMPTS:]


def _same(one: Changes, other: Changes) -> bool:
    return all(one.get(name) == other.get(name) for name in ("number", "runner", "started"))


def _attempts(document: Mapping[str, Any]) -> list[Changes]:
    found = _own(document).get(_ATTEMPTS)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _own(document: Mapping[str, Any]) -> Mapping[str, Any]:
    own = document.get(OWN)
    return own if isinstance(own, Mapping) else {}


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
