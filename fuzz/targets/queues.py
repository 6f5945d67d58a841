"""Queue directories in which anything may lie: names, messages half written, claims, reasons, heartbeats, locks."""

import asyncio
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from fuzz.picks import Picks
from fuzz.target import noise
from studio_runner.errors import BrokerError
from studio_runner.queues import keeping
from studio_runner.queues.backlog import Backlog, Entry
from studio_runner.queues.caretaker import Caretaker
from studio_runner.queues.claims import Claims
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.heartbeat import ProcessMark, Roster
from studio_runner.queues.layout import ClaimName, DelayedName, MessageName, QueuePlace, RootPlace
from studio_runner.queues.reading import Ripening, SoftLock, is_complete, read_message

MAX_LEN = 1024
WORDS = (
    b"~tried1",
    b"~tried999999",
    b".reason.json",
    b"lock.lock",
    b"~1~1~",
    b'{"experiment":{"key":"k"}}',
    b'"at":',
)
_MEMORY = Path("/dev/shm")
_NAMES = (
    *("a", "b", "a~tried1", "a~tried999999", "lock.lock", ".hidden", "a.reason.json", "a~tried1.reason.json"),
    *(
        "gone.1~1~0~a",
        "gone.1~2~999999~b",
        "gone.1~٣~1~a",
        "0~0~a",
        "1~1~b~tried2",
        "9" * 200 + "~1~a",
        "1~" + "9" * 200 + "~a",
    ),
    *("x" * 255, "~", "~~~", "gone.1", "live.1", "\udcff"),
)
_CONTENTS = (
    *(
        b"",
        b'{"experiment":{"key":"k"}}',
        b'{"experiment":{"key"',
        b"[" * 2000,
        b"\xff\xfe",
        b"null",
        b'"k"',
        b"[]",
    ),
    *(
        b'{"reason":"why","at":1.7e9}',
        b'{"reason":1,"at":1e300}',
        b'{"reason":[],"at":"nan"}',
        b'{"at":1' + b"0" * 400 + b"}",
    ),
    *(
        b'{"reason":"","at":1' + b"0" * 400 + b"}",
        b'{"reason":"\\ud800","at":0}',
        b'{"experiment":{"key":{"k":1}}}',
    ),
)
_log = logging.getLogger("fuzz")
_log.disabled = True
_loop = asyncio.new_event_loop()


class _Ticket:
    def release(self) -> None:
        """Nothing was reserved."""


def seeds() -> Iterable[bytes]:
    return noise(60)


def check(data: bytes) -> None:
    root = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        picks = Picks(data)
        place = RootPlace(root / "queues")
        queue = place.queue("q")
        work, settlement = [picks.below(9) for _ in range(6)], picks.below(5)
        _fill(place, queue, picks)
        for step in work:
            _work(place, queue, step, settlement)
        assert set(os.listdir(root)) <= {"queues"}
    finally:
        shutil.rmtree(root)


def _fill(place: RootPlace, queue: QueuePlace, picks: Picks) -> None:
    places = (queue.messages, queue.claimed, queue.delayed, queue.dead, queue.incoming, place.runners)
    for directory in places:
        if picks.below(8) < 7:
            directory.mkdir(parents=True, exist_ok=True)
    while picks:
        directory = picks.one(places)
        name = (
            picks.one(_NAMES) if picks.below(4) else os.fsdecode(picks.some(40)).replace("/", "").replace("\0", "")
        )
        path = directory / name
        if name in ("", ".", "..") or not directory.is_dir() or os.path.lexists(path):
            continue
        _make(path, picks)


def _make(path: Path, picks: Picks) -> None:
    match picks.below(12):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(picks.one(("/dev/zero", "a", ".", "/nowhere")))
        case 2:
            os.mkfifo(path)
        case 3:
            path.write_bytes(_mark(picks))
        case 4:
            path.write_bytes(picks.some(80))
        case _:
            path.write_bytes(picks.one(_CONTENTS))
    if picks.flag():
        os.utime(path, (picks.below(1 << 31), picks.below(1 << 31)), follow_symlinks=False)


def _mark(picks: Picks) -> bytes:
    """A heartbeat of this very machine, with something odd in it."""
    mark = asdict(ProcessMark.own())
    mark[picks.one(tuple(mark))] = picks.one(
        (0, -1, 1 << 70, None, "", "\0", "../..", "self", [], {}, "\ud800", "x" * 5000)
    )
    return json.dumps(mark).encode()


def _work(place: RootPlace, queue: QueuePlace, step: int, settlement: int) -> None:
    caretaker = Caretaker(place, Roster(place.runners, "live.1", 0.0), Complaints(_log))
    todo: tuple[Callable[[], object], ...] = (
        *(place.queue_names, caretaker.round, caretaker.tidy, lambda: keeping.status(queue)),
        *(lambda: keeping.dead_letters(queue), lambda: keeping.revive(queue, None)),
        *(lambda: keeping.withdraw(queue, "k"), lambda: keeping.remove(queue), lambda: _consume(queue, settlement)),
    )
    try:
        todo[step]()
    except (OSError, BrokerError) as error:
        str(error)


def _consume(queue: QueuePlace, settlement: int) -> None:
    backlog = Backlog(queue.messages, lambda _: None)
    backlog.is_stale()
    backlog.merge(backlog.listing())
    claims, ripening = Claims("live.1", lambda: None), Ripening()
    lock = SoftLock(queue.messages / "lock.lock", Complaints(_log))
    lock.covers(time.monotonic())
    while (entry := backlog.pop()) is not None:
        _one(queue, entry, claims, ripening, settlement)
        backlog.forget(entry)


def _one(queue: QueuePlace, entry: Entry, claims: Claims, ripening: Ripening, settlement: int) -> None:
    message = MessageName.parse(entry.name)
    assert MessageName.parse(message.file_name) == message
    assert ClaimName.parse(ClaimName("o", 1, message).file_name) == ("o", 1, message)
    assert DelayedName.parse(DelayedName(1, message).file_name) == (1, message)
    content = read_message(queue.messages / entry.name)
    wait = ripening.wait(entry, content)
    assert content.body is not None
    assert not (wait and is_complete(content.body))
    claim = claims.take(queue, entry.name, content.version)
    assert claim is not None
    delivery = claims.deliver(claim, content.body, _Ticket())
    ways: tuple[Callable[[], Awaitable[None]], ...] = (
        *(delivery.ack, delivery.requeue, lambda: delivery.requeue(1.0), lambda: delivery.dead_letter("why")),
        lambda: asyncio.sleep(0),
    )
    _loop.run_until_complete(ways[settlement]())
    claims.hand_back()
