"""Sealed messages: what it takes to verify and open one and read the request in it, beside its ciphers alone."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from nacl.secret import SecretBox

from bench.result import Result
from bench.rig import spread
from studio_runner.config.settings import TrustSettings
from studio_runner.messages.envelope import enclosed
from studio_runner.messages.keys import (
    OpeningKey,
    SigningKey,
    new_opening_key,
    new_signing_key,
    private_text,
    public_text,
)
from studio_runner.messages.request import parse_request
from studio_runner.runner.opener import Opener

TARGET_MS = 25.0
SIZES = {"4 KB": 4_000, "1 MB": 1 << 20}
QUEUE = "rmq_bench"


def run(scale: float) -> Iterator[Result]:
    rounds = max(10, int(100 * scale))
    opening, signing = new_opening_key(), new_signing_key()
    with _keys(opening, signing) as trust:
        opener = Opener(trust)
        for name, size in SIZES.items():
            message = enclosed(parse_request(_request(size)), opening.public, signing)
            assert opener.read(QUEUE, message).request  # type: ignore[union-attr]
            ours = [_milliseconds(partial(opener.read, QUEUE, message)) for _ in range(rounds)]
            bare = median(_milliseconds(_ciphers(message, opening, signing)) for _ in range(rounds))
            value = median(ours)
            yield Result(
                f"verify, open and read a sealed request of {name}",
                value,
                "ms",
                bare=bare,
                bare_name="Ed25519, RSA and XSalsa20-Poly1305",
                ratio=value / bare,
                target=f"< {TARGET_MS:g} ms",
                met=value < TARGET_MS,
                detail=spread(ours),
            )


def _request(size: int) -> bytes:
    """One of so many bytes."""
    experiment = {"key": "bench", "filename": None, "time_added": time.time(), "info": "x" * size}
    return json.dumps({"experiment": experiment}).encode()


@contextmanager
def _keys(opening: OpeningKey, signing: SigningKey) -> Iterator[TrustSettings]:
    with TemporaryDirectory() as place:
        own, senders = Path(place, "own"), Path(place, "senders")
        for path, content in (
            (own / "encryption" / "ssh-privatekey", private_text(opening)),
            (senders / "rmq_", public_text(signing.public)),
        ):
            path.parent.mkdir(parents=True, mode=0o755)
            path.write_bytes(content)
            path.chmod(0o600)
        yield TrustSettings(encrypt_dir=own, request_signatures_dir=senders)


def _ciphers(message: bytes, opening: OpeningKey, signing: SigningKey) -> Callable[[], object]:
    """Nothing but the three of them."""
    outer = json.loads(message)["message"]
    text, signature = outer["payload"].encode(), base64.b64decode(outer["signature"])
    wrapped, box = (base64.b64decode(part) for part in text.split(b","))
    sender = signing.public

    def work() -> object:
        assert sender.verifies(signature, text)
        return SecretBox(opening.unwrap(wrapped)).decrypt(box)

    return work


def _milliseconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3
