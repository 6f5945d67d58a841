"""The stored output of an experiment: live, bounded, and never in the script's way."""

import asyncio
import fcntl
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from studio_runner.messages.masking import Masker, Spans, blanked, within
from studio_runner.process.hidden import Cover, Notes
from studio_runner.process.lines import Scanner
from studio_runner.process.regular import open_directory

_PREFIX = b"[studio-runner] "
_LEAST_LIMIT = 4096
_PIPE_SIZE = 1 << 20
_PIECE = 1 << 18
_SLICE = 1 << 13
"""Bytes that the scanner is given at a time."""
_TURN = 0.005
"""Seconds that the scanner has until the rest of the program gets its turn."""
_KEPT = 1 << 16
"""Bytes of output that wait in memory while the disk takes none."""
_RETRY = 1.0
"""Seconds between two tries to write to a disk that took nothing."""
_FRESH = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_GAP = re.compile(rb"\n\[studio-runner\] (\d{1,18}) bytes left out here, after the first (\d{1,18})\n")


@dataclass(frozen=True)
class Gap:
    """The marker in a file for bytes left out: where it stands, how long it is, how many bytes it stands for."""

    offset: int
    length: int
    omitted: int

    def marker(self) -> bytes:
        return b"\n%b%d bytes left out here, after the first %d\n" % (_PREFIX, self.omitted, self.offset)

    def in_output(self, position: int) -> int:
        """How many bytes of output lie before `position` in the file."""
        if position <= self.offset:
            return position
        return max(position - self.length, self.offset) + self.omitted

    def in_file(self, reached: int) -> int:
        """The reverse; the marker's place for what is left out."""
        if reached <= self.offset:
            return reached
        return self.offset if reached < self.offset + self.omitted else reached - self.omitted + self.length

    def places_in_file(self, places: Spans) -> Spans:
        """Where these places of the output are in the file; never in the marker."""
        after, shift = self.offset + self.omitted, self.length - self.omitted
        head = [(start, min(end, self.offset)) for start, end in places if start < self.offset]
        tail = [(max(start, after) + shift, end + shift) for start, end in places if end > after]
        return [*head, *tail]


NO_GAP = Gap(0, 0, 0)
"""Of a file that holds all of the output."""

LONGEST_MARKER = 128
"""Bytes; two numbers of eighteen digits fit, and longer ones are no marker: a script can print anything."""


def find_gap(content: bytes, start: int = 0) -> Gap | None:
    """The marker in what an output file holds from the byte `start` on. It names its own place: no script prints
    one by chance."""
    for found in _GAP.finditer(content):
        if int(found[2]) == start + found.start():
            return Gap(start + found.start(), len(found[0]), int(found[1]))
    return None


@dataclass(frozen=True)
class Veil:
    """How secrets are kept out of sight: `masker` knows them. Their places are written into the file `notes`, and
    they are stored; or, without it, they are overwritten."""

    masker: Masker
    notes: Path | None = None


class Output:
    """Writes an experiment's output to `path`, and to at most about `limit` bytes of it (0: no limit).

    What exceeds the limit leaves a gap: the first eighth of the limit stays, then a marker says how many bytes are
    left out, then comes the newest output, about a quarter of the limit or more. Every write reaches the operating
    system at once, for those who follow; a gap replaces the file (new inode), so nobody reads one half rewritten.

    When the file cannot be written, `error` says why, and output is read on so that the script can end: the last of
    it waits for room on the disk, the rest is dropped and the file says how much that was.
    What the script writes goes to `scanner` as well, all of it, secrets overwritten. On its way to the disk nothing
    waits but what may be the beginning of a secret; the scanner, which may have much to do with little, gets some
    milliseconds at a time, and nothing more is read until it has caught up.
    """

    def __init__(self, path: Path, limit: int, scanner: Scanner | None = None, veil: Veil | None = None) -> None:
        self._path = path
        self._limit = max(limit, _LEAST_LIMIT) if limit else 0
        self._scanner = scanner
        self._unseen = b""
        """What the scanner was not given yet."""
        self._veil = veil
        self._stream = veil.masker.stream() if veil else None
        self._notes = Notes(veil.notes) if veil and veil.notes else None
        self._gap = NO_GAP
        self._at_line_start = True
        self.error: OSError | None = None
        """Why the disk does not take what is written."""
        self._kept, self._lost = b"", 0
        """What waits for room on the disk, and how many bytes before it are dropped."""
        self._next_try = 0.0
        self._file = os.open(path, _FRESH | os.O_TRUNC, 0o644)
        self._size = 0
        # The script may put links in the place of both directories: from here on they are not looked up any more.
        self._place, self._above = open_directory(path.parent), open_directory(path.parent.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        if self._file >= 0:
            self.end()
            for descriptor in (self._file, self._place, self._above):
                os.close(descriptor)
            self._file = -1
            if self._notes:
                self._notes.close()

    def end(self) -> None:
        """The script has written its last; notes may still come. May be called twice."""
        self._release()
        if self._scanner:
            while not self._scan():
                pass
            self._scanner.finish()
            self._scanner = None
        self._insist(b"")

    def write(self, data: bytes) -> None:
        """Output of the script. What the scanner has no time for now, it is given with the next, or at the end."""
        if data:
            self._pass_on(*(self._stream.take(data) if self._stream else (data, ())))
            self._scan()

    def _release(self) -> None:
        """What looked like the beginning of a secret was none."""
        if self._stream:
            self._pass_on(*self._stream.take_rest())

    def _pass_on(self, data: bytes, secrets: Spans) -> None:
        if not data:
            return
        masked = blanked(data, secrets)
        if self._notes:
            self._store(data, secrets)
        else:
            self._store(masked)
        if self._scanner:
            self._unseen += masked

    def _scan(self) -> bool:
        """Let the scanner go on for a moment; whether it has seen everything."""
        data, position, until = self._unseen, 0, time.monotonic() + _TURN
        while self._scanner and position < len(data):
            self._scanner.feed(data[position : position + _SLICE])
            position += _SLICE
            if time.monotonic() > until:
                break
        self._unseen = data[position:]
        return not self._unseen

    @property
    def size(self) -> int:
        """Bytes of the file as it is."""
        return self._size

    @property
    def length(self) -> int:
        """Bytes of output so far, what was left out included."""
        return self._gap.in_output(self._size)

    @property
    def hidden(self) -> Spans:
        """Where secrets are stored, in bytes of output."""
        return self._notes.places if self._notes else ()

    @property
    def cover(self) -> Cover:
        """The same, for those who have the stored output only; of what is left out they need to know nothing."""
        start, end = self._gap.offset, self._gap.offset + self._gap.omitted
        stored = [place for place in self.hidden if place[0] < start or place[1] > end]
        return Cover(self.length, stored)

    def since(self, position: int, length: int) -> bytes:
        """What the file holds from a byte on, `length` bytes at most, secrets overwritten."""
        data = os.pread(self._file, length, position)
        return blanked(data, within(self._gap.places_in_file(self.hidden), position, position + len(data)))

    def note(self, text: str) -> None:
        """Lines of the runner's own, on lines of their own: `[studio-runner] text`."""
        masked = self._veil.masker.text(text) if self._veil else text
        lines = (_PREFIX + line.encode(errors="replace") + b"\n" for line in masked.splitlines())
        self._insist((b"" if self._at_line_start else b"\n") + b"".join(lines))

    async def drain(self, descriptor: int) -> None:
        """Write what comes out of the pipe `descriptor` until its end, then close it.

        The pipe is read no faster than disk and scanner take it, so a script that floods its output waits.
        """
        if sys.platform == "linux":
            with suppress(OSError):  # more than the user may have; a small pipe works as well
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        os.set_blocking(descriptor, False)
        try:
            more = True
            while more:
                more = await self._taken(descriptor)
                while not self._scan():  # noqa: ASYNC110 - it waits for nothing, it gives others their turn
                    await asyncio.sleep(0)
        finally:
            os.close(descriptor)

    async def _taken(self, descriptor: int) -> bool:
        """Write what comes until the scanner falls behind; False at the end of it all."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        loop.add_reader(descriptor, self._take, descriptor, done)
        try:
            return await done
        finally:
            loop.remove_reader(descriptor)

    def _take(self, descriptor: int, done: "asyncio.Future[bool]") -> None:
        if done.done():
            return
        try:
            data = os.read(descriptor, _PIECE)
        except BlockingIOError:
            return
        self.write(data)
        if not data:
            self._release()
            done.set_result(False)
        elif self._unseen:
            done.set_result(True)

    def _insist(self, data: bytes) -> None:
        """Store it, and what waits, even if the disk took nothing a moment ago."""
        self._next_try = 0.0
        if data or self._kept:
            self._store(data)

    def _store(self, data: bytes, secrets: Spans = ()) -> None:
        """Of what the disk does not take, the end is kept for the next time."""
        self._at_line_start = data.endswith(b"\n")
        lost, pending = self._describe_lost(), self._kept + data
        before = len(lost) + len(self._kept)
        rest = self._append(lost + pending, [(start + before, end + before) for start, end in secrets])
        if len(rest) <= len(pending):
            self._lost = 0  # it is said in the file
        rest = rest[-len(pending) :]
        self._kept = rest[-_KEPT:]
        self._lost += len(rest) - len(self._kept)

    def _describe_lost(self) -> bytes:
        if not self._lost or self.error is None:
            return b""
        why = (self.error.strerror or "the disk refused").encode()
        return b"\n%b%d bytes of output could not be stored here: %b\n" % (_PREFIX, self._lost, why)

    def _append(self, data: bytes, secrets: Spans) -> bytes:
        """Returns what the disk did not take, secrets overwritten."""
        if self.error and time.monotonic() < self._next_try:
            return blanked(data, secrets)
        done = 0
        try:
            while done < len(data):
                if self._limit and self._size >= self._limit:
                    self._leave_out()
                room = self._limit - self._size if self._limit else len(data)
                done += self._put(data, done, min(done + room, len(data)), secrets)
        except OSError as error:
            self.error, self._next_try = error, time.monotonic() + _RETRY
        else:
            self.error = None
        return blanked(data, secrets)[done:] if done < len(data) else b""

    def _put(self, data: bytes, start: int, end: int, secrets: Spans) -> int:
        """Write a part of the data; returns how much was written."""
        piece = memoryview(data)[start:end]
        here = within(secrets, start, end) if secrets else ()
        written = os.write(self._file, self._noted(piece, here) if here else piece)
        self._size += written
        return written

    def _noted(self, piece: memoryview, secrets: Spans) -> bytes | memoryview:
        """The piece as it can be stored, now that the places of its secrets are written down, or cannot be."""
        try:
            assert self._notes  # noqa: S101 - else they were overwritten
            self._notes.add(secrets, self.length)
        except OSError:
            return blanked(bytes(piece), secrets)
        return piece

    def _leave_out(self) -> None:
        """Replace the file by its head, the marker and its tail."""
        head = self._gap.offset or self._between_lines(self._limit // 8)
        tail = self._between_lines(self._size - self._limit // 4)
        before = self._gap.omitted - self._gap.length
        marker = Gap(head, 0, tail - head + before).marker()
        temporary = f".{self._path.name}.new"  # not in the artifact: it is packed any time
        self._remove(temporary)
        file = os.open(temporary, _FRESH | os.O_EXCL, 0o644, dir_fd=self._above)
        try:
            self._copy(file, 0, head)
            _write_all(file, marker)
            self._copy(file, tail, self._size)
            os.rename(temporary, self._path.name, src_dir_fd=self._above, dst_dir_fd=self._place)
        except BaseException:
            os.close(file)
            self._remove(temporary)
            raise
        os.close(self._file)
        self._file, self._gap = file, Gap(head, len(marker), tail - head + before)
        self._size = head + len(marker) + self._size - tail

    def _remove(self, temporary: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._above)

    def _between_lines(self, position: int) -> int:
        """The first beginning of a line from `position` on; `position` itself when none is near."""
        return position + os.pread(self._file, self._limit // 16, position).find(b"\n") + 1

    def _copy(self, target: int, start: int, end: int) -> None:
        """As zeros what is not there any more: the script can cut the file short."""
        while start < end:
            size = min(_PIECE, end - start)
            piece = os.pread(self._file, size, start) or bytes(size)
            _write_all(target, piece)
            start += len(piece)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
