"""Reading `_status`, which the sender's store has: what it answers may be anything."""

import bz2
import gzip
import io
import json
import tarfile

import pytest

from studio_runner.messages.artifact import Artifact
from studio_runner.runner.artifacts import STATUS_LIMIT, Place, StopWatch
from studio_runner.storage.base import ObjectInfo
from studio_runner.storage.tar import PAX, Member, encode

STOPPED = json.dumps({"key": "k", "status": "stopped"}).encode()


class Answering:
    """A store that says that the object is small, and sends what it likes."""

    def __init__(self, pieces, size=10):
        self.pieces, self.size, self.sent = pieces, size, 0

    async def head(self, key):
        return ObjectInfo(key, self.size, "etag", 1000.0)

    async def get(self, key):
        for piece in self.pieces:
            self.sent += len(piece)
            yield piece


def archive(content, mode="w", name="./status.json"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as made:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


async def asked(store):
    artifact = Artifact(qualified="s3://host/bucket/status.tar", mutable=True)
    return await StopWatch(Place(artifact, store, "status.tar", None), 0.0).requested()


@pytest.mark.parametrize("body", [STOPPED, archive(STOPPED), archive(STOPPED, "w:gz"), archive(STOPPED, "w:bz2")])
async def test_a_stop_is_understood_however_it_is_packed(body):
    assert await asked(Answering([body])) is True


async def test_no_more_is_read_than_a_status_may_have():
    store = Answering(STOPPED + b" " * 65536 for _ in range(10_000))
    assert await asked(store) is False
    assert store.sent < 2 * STATUS_LIMIT


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
async def test_a_bomb_is_not_unpacked(pack):
    """Some kilobytes that stand for much more, with a status behind it all, which is never reached."""
    padding = archive(bytes(32 << 20), name="padding")[: 512 + (32 << 20)]
    bomb = pack(padding + archive(STOPPED))
    assert len(bomb) < STATUS_LIMIT
    assert await asked(Answering([bomb])) is False


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"\x1f\x8bnot gzip", b"BZh9", archive(STOPPED)[:300]])
async def test_what_cannot_be_read_asks_for_nothing(body):
    assert await asked(Answering([body])) is False


def extension(kind, content):
    return encode(Member(b"x", kind, 0o644, len(content), 0)) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(extension(PAX, b"1" * 900_000), id="a length of 900,000 digits"),
        pytest.param(extension(b"L", b"a") * 1000, id="a thousand long names for one file"),
        pytest.param(encode(Member(b"x", b"Z", 0o644, -1024, 0)), id="a negative size"),
        pytest.param(
            extension(PAX, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"), id="a sparse file without a map"
        ),
    ],
)
async def test_no_archive_keeps_the_runner_busy_or_fails_the_experiment(before):
    """Each of them costs hours, or an error, in Python's own reader of archives."""
    assert await asked(Answering([before + archive(bytes(1024))])) is False


async def test_what_stands_before_damage_counts():
    assert await asked(Answering([archive(STOPPED)[:1024] + b"x" * 512])) is True
