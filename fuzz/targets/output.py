"""Experiment output: lines found in pieces of any size, the stored file with its gap, and following it, while the
script does what it likes to the file."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fuzz.picks import Picks
from fuzz.target import noise
from studio_runner.messages.masking import SHOWN, Masker
from studio_runner.process import follow as following
from studio_runner.process.hidden import Hidden, Places, nothing_hidden
from studio_runner.process.lines import EveryLine, LineScanner, Scanner
from studio_runner.process.output import Output, Veil, find_gap

MAX_LEN = 4096
WORDS = (
    b"\n{",
    b"}\n",
    b"\n[",
    b"]\n",
    b"\n \t{",
    b"\n[studio-runner] ",
    b" bytes left out here, after the first ",
    b"999",
)
LIMIT = 4096
SECRET = b"canary-not-a-secret-0123456789"
_MARKER = b"left out here"
_MEMORY = Path("/dev/shm")
_loop = asyncio.new_event_loop()


def seeds() -> Iterable[bytes]:
    yield b'\x00\x05{"a":1}\nplain\n [1]\nx{\n\t{}'
    yield b"\x01\n[studio-runner] 10 bytes left out here, after the first 0\nrest"
    yield from (b"\x02" + piece for piece in noise(20))
    yield from (bytes([kind]) + piece for kind in (3, 4) for piece in noise(20))


def check(data: bytes) -> None:
    picks = Picks(data)
    (_lines, _content, _written, _meddled, _veiled)[picks.below(5)](picks)


def _lines(picks: Picks) -> None:
    sizes = [1 + picks.below(64) for _ in range(1 + picks.below(8))]
    data = picks.rest()
    pieces, at, turn = [], 0, 0
    while at < len(data):
        pieces.append(data[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(pieces[-1]), turn + 1
    lines = data.split(b"\n") if data and not data.endswith(b"\n") else data.split(b"\n")[:-1]
    assert list(_every(pieces)) == lines
    ours = [line for line in lines if line.lstrip(b" \t")[:1] in (b"{", b"[")]
    assert [line.lstrip(b" \t") for line in _scanned(pieces)] == [line.lstrip(b" \t") for line in ours]
    assert [line.lstrip(b" \t") for line in _scanned([data])] == [line.lstrip(b" \t") for line in ours]


def _every(pieces: Iterable[bytes]) -> Iterator[bytes]:
    found: list[bytes] = []
    _feed(EveryLine(found.append), pieces)
    return iter(found)


def _scanned(pieces: Iterable[bytes]) -> Iterator[bytes]:
    found: list[bytes] = []
    _feed(LineScanner(found.append), pieces)
    return iter(found)


def _feed(scanner: Scanner, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        scanner.feed(piece)
    scanner.finish()


def _content(picks: Picks) -> None:
    """A file that a script made itself."""
    start, data = picks.below(300), picks.rest()
    gap = find_gap(data)
    assert gap is None or data[gap.offset : gap.offset + gap.length] == gap.marker()
    with _Place() as path:
        path.write_bytes(data)
        assert _followed(path, start) == data[start:]


def _written(picks: Picks) -> None:
    """Output of the runner's alone: what is left out is counted."""
    whole = b""
    with _Place() as path, Output(path, LIMIT, LineScanner(lambda _: None)) as output:
        while picks and len(whole) < 64 * LIMIT:
            piece = picks.one((b"line\n", b"x", b"\n", b'{"a":1}\n', picks.some(40))) * (1 + picks.below(2000))
            output.write(piece)
            whole += piece
            assert output.size == path.stat().st_size <= LIMIT
        stored = path.read_bytes()
        assert _followed(path, 0) == stored
        gap = find_gap(stored)
        if _MARKER in whole:
            return
        if gap is None:
            assert stored == whole
        else:
            assert stored[: gap.offset] == whole[: gap.offset]
            assert stored[gap.offset + gap.length :] == whole[gap.offset + gap.omitted :]


def _veiled(picks: Picks) -> None:
    """A secret in the output: stored with its place written down, or not at all; nobody who follows sees more of it
    than its first bytes."""
    stored = picks.flag()
    with _Place() as path:
        notes = path.parent.parent / "notes"
        veil = Veil(Masker([SECRET.decode()]), notes if stored else None)
        with Output(path, LIMIT, EveryLine(_check_hidden), veil) as output:
            while picks:
                piece = picks.one((SECRET, SECRET[:9], SECRET[9:], b"line\n", b"x" * 700, picks.some(30)))
                output.write(piece * (1 + picks.below(3)))
                _check_hidden(output.since(0, 2 * LIMIT))
        places = Places(notes)
        _check_hidden(_followed(path, picks.below(50), places))
        places.close()
        if not stored:
            _check_hidden(path.read_bytes())


def _check_hidden(shown: bytes) -> None:
    assert SECRET[SHOWN:] not in shown


def _meddled(picks: Picks) -> None:
    """The script changes the file that its output goes to, under a reader's eyes."""
    with _Place() as path, Output(path, LIMIT, EveryLine(lambda _: None)) as output:
        reader = following._Reader(path, picks.below(100), nothing_hidden)
        for _ in range(min(12, 1 + picks.below(16))):
            _meddle(path, picks)
            output.write(picks.one((b"line\n", b"x", picks.some(80))) * (1 + picks.below(2000)))
            output.note(picks.text(20))
            for _ in range(picks.below(3)):
                reader.read()
        reader.close()
        if output.error is None:
            _followed(path, 0)


def _meddle(path: Path, picks: Picks) -> None:
    match picks.below(8):
        case 0:
            path.unlink(missing_ok=True)
        case 1 if path.is_file():
            os.truncate(path, picks.below(5000))
        case 2:
            path.unlink(missing_ok=True)
            path.symlink_to("/dev/zero")
        case 3:
            path.unlink(missing_ok=True)
            path.write_bytes(
                b"\n[studio-runner] %d bytes left out here, after the first 0\n" % 10 ** picks.below(30)
            )
        case 4 if path.is_file():
            with path.open("ab") as file:
                file.write(picks.some(100))


def _followed(path: Path, start: int, hidden: Hidden = nothing_hidden) -> bytes:
    async def read() -> bytes:
        return b"".join([piece async for piece in following.follow(path, lambda: True, start, hidden)])

    return _loop.run_until_complete(read())


class _Place:
    """Where an attempt's output lies, for as long as the context."""

    def __enter__(self) -> Path:
        self._root = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
        (self._root / "output").mkdir()
        return self._root / "output" / "output"

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._root)
