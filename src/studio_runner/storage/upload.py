"""One artifact on its way back, again and again, and only when it changed."""

import asyncio
import logging
import posixpath
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from studio_runner.errors import (
    ExperimentError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
)
from studio_runner.messages.artifact import Artifact
from studio_runner.storage.about import about
from studio_runner.storage.alone import Alone
from studio_runner.storage.archive import GivenUpError, Note, pack
from studio_runner.storage.base import ObjectInfo, Precondition, Store
from studio_runner.storage.blocking import BlockingStore, blocking, has
from studio_runner.storage.compression import Compression
from studio_runner.storage.flow import given_out
from studio_runner.storage.ranges import PART
from studio_runner.storage.scan import Fingerprint, fingerprint
from studio_runner.storage.single import read_file, single_file
from studio_runner.storage.threads import in_thread

_log = logging.getLogger(__name__)
_FILE_CLOCK = getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME)
"""The clock that file times are taken from."""

SMALL = 1 << 17
"""Bytes below which artifacts on this machine are carried one after the other, in one thread for all of them:
starting a thread for each would take longer than the carrying."""

_AHEAD = 16
"""Pieces of about a megabyte that are packed before the network wants them."""

_TRIES = 5
"""Puts of one artifact that may find that somebody else has just written it."""

MOST_NOTES = 20
"""Sentences about what cannot be part of an artifact."""

_Source = Generator[bytes, None, None]

StillMine = Callable[[], Awaitable[None]]
"""Raises LeaseLostError when another attempt has taken the experiment over."""


class _Look(NamedTuple):
    """What a directory looked like, and the clock of file times before it was looked at."""

    fingerprint: Fingerprint
    taken: int

    @property
    def final(self) -> bool:
        """Any later write shows: it cannot bear the time of one that was seen."""
        return self.fingerprint.newest < self.taken


def _look(directory: Path) -> _Look:
    taken = time.clock_gettime_ns(_FILE_CLOCK)
    return _Look(fingerprint(directory), taken)


class _Load(NamedTuple):
    """What is to be put: packed already where it is small."""

    look: _Look
    source: "_Source | bytes"


class Upload:
    """Brings one artifact's directory back to its store, again and again, and only when it changed.

    A script may be writing meanwhile. `note` is told of what cannot be part of an archive. With `still_mine`, an
    object that somebody else wrote since this attempt saw it is replaced only after asking whether the experiment
    is still this attempt's (where the store has conditional puts). `alone` says how an archive announces the file
    that is all it holds.
    """

    def __init__(  # noqa: PLR0913
        self,
        artifact: Artifact,
        store: Store,
        key: str,
        directory: Path,
        *,
        note: Note | None = None,
        still_mine: StillMine | None = None,
        alone: Alone | None = None,
    ) -> None:
        self._artifact = artifact
        self._alone = alone
        self._store = store
        self._key = key
        self._directory = directory
        self._note = _Few(note or partial(_log.warning, "artifact %s: %s", artifact.label))
        self._still_mine = still_mine
        self._seen = Precondition(None)
        self._known: _Look | None = None
        self._marked = False
        self._given_up = False
        self._busy = asyncio.Lock()

    def saw(self, info: ObjectInfo | None) -> None:
        """What the store has now; None: nothing."""
        self._seen = Precondition(info.etag if info else None)

    async def mark(self) -> None:
        """Take what is there now for what the store has."""
        with about(self._artifact):
            await in_thread(self.mark_now)

    def mark_now(self) -> None:
        """As `mark`, in this thread."""
        self._known = _look(self._directory)
        self._marked = True

    async def changed(self) -> bool:
        """Whether there is anything that the store may not have."""
        return self._differs(await self._take())

    async def upload(self) -> bool:
        """Put the artifact as it is now; False when the store has that already, or there is nothing.

        ArtifactInvalidError (a file cannot be read), StorageUnavailableError, UnauthorisedError; what `still_mine`
        raises.
        """
        async with self._busy:
            self._given_up = False
            with about(self._artifact):
                for _ in range(_TRIES):
                    try:
                        return await self._try()
                    except PreconditionFailedError:
                        await self._look_again()
                raise StorageUnavailableError(
                    "somebody else keeps writing it",
                    hint="see who else runs this experiment, or writes to this key",
                )

    async def _try(self) -> bool:
        if store := blocking(self._store):
            return await in_thread(partial(self._run, store), on_cancel=self._give_up)
        return await self._send()

    def upload_small(self) -> bool:
        """As `upload`, in this thread, where that is quickly done; False when it is not, or does not go well."""
        store = blocking(self._store)
        if store is None or self._busy.locked():
            return False
        try:
            look = _look(self._directory)
            if look.fingerprint.size > SMALL:
                return False
            self._put(store, look)
        except (ExperimentError, PreconditionFailedError):
            return False
        return True

    def _run(self, store: BlockingStore) -> bool:
        """All of it, in this thread."""
        return self._put(store, _look(self._directory))

    def _put(self, store: BlockingStore, look: _Look) -> bool:
        source = self._source(look)
        if source is None or (self._is_first_and_empty(look) and not has(store, self._key)):
            return False
        with closing(source):
            self.saw(store.write(self._key, source, when=self._when))
        self._record(look)
        return True

    async def _send(self) -> bool:
        """To a store elsewhere."""
        load = await in_thread(self._load, on_cancel=self._give_up)
        if load is None or (self._is_first_and_empty(load.look) and not await self._found()):
            return False
        self.saw(await self._carry(load))
        self._record(load.look)
        return True

    @property
    def _when(self) -> Precondition | None:
        return self._seen if self._still_mine is not None else None

    async def _look_again(self) -> None:
        """Somebody else wrote the object. The order counts: whoever takes the experiment over after we were told
        that it is ours writes after this look, and our put fails."""
        self.saw(await self._found())
        if self._still_mine is not None:
            await self._still_mine()

    async def _carry(self, load: _Load) -> ObjectInfo:
        if isinstance(load.source, bytes):
            return await self._store.put(self._key, one_piece(load.source), when=self._when)
        with closing(load.source):
            async with given_out(load.source, _AHEAD) as stream:
                return await self._store.put(self._key, stream, when=self._when)

    def _load(self) -> _Load | None:
        """In a thread: what is to be put; None when there is nothing, or nothing new."""
        look = _look(self._directory)
        source = self._source(look)
        if source is None:
            return None
        return _Load(look, b"".join(source) if look.fingerprint.size <= PART else source)

    async def _found(self) -> ObjectInfo | None:
        try:
            return await self._store.head(self._key)
        except ObjectNotFoundError:
            return None

    def _source(self, look: _Look) -> "_Source | None":
        """What is to be put; None when there is nothing, or nothing new."""
        if not self._differs(look) or self._directory.is_symlink() or not self._directory.is_dir():
            return None
        if self._artifact.unpack:
            return self._until_given_up(self._pack(look))
        name = single_file(self._directory, posixpath.basename(self._key))
        return None if name is None else self._until_given_up(read_file(self._directory, name))

    def _pack(self, look: _Look) -> "_Source":
        announce = self._alone.announced if self._alone and look.fingerprint.entries == 1 else None
        return pack(self._directory, Compression.of_name(self._key), note=self._note, announce=announce)

    def _until_given_up(self, source: "_Source") -> "_Source":
        with closing(source):
            for piece in source:
                if self._given_up:
                    raise GivenUpError
                yield piece

    def _give_up(self) -> None:
        self._given_up = True

    async def _take(self) -> _Look:
        with about(self._artifact):
            return await in_thread(partial(_look, self._directory))

    def _differs(self, look: _Look) -> bool:
        known = self._known
        return known is None or look.fingerprint != known.fingerprint or not (self._marked or known.final)

    def _is_first_and_empty(self, look: _Look) -> bool:
        return self._known is None and not look.fingerprint.entries

    def _record(self, look: _Look) -> None:
        self._known, self._marked = look, False


class _Few:
    """Notes, each of them once, and no more than MOST_NOTES: a script can make a million pipes, and an upload comes
    every few seconds."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._said: set[str] = set()

    def __call__(self, sentence: str) -> None:
        if sentence in self._said or len(self._said) > MOST_NOTES:
            return
        self._said.add(sentence)
        self._note(sentence if len(self._said) <= MOST_NOTES else "there is more that is left out like this")


async def one_piece(body: bytes) -> AsyncIterator[bytes]:
    yield body
