"""Request messages with parts put in the wrong places: no error repeats a credential, whatever else is wrong."""

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from fuzz.picks import Picks
from fuzz.target import SAMPLES, noise
from fuzz.targets.messages import use
from studio_runner.errors import InvalidMessageError
from studio_runner.messages.request import parse_request
from studio_runner.messages.salvage import salvaged

MAX_LEN = 512
WORDS = ()
CANARY = "CanaryNotASecret0123456789"
_SAMPLES = tuple(path.read_bytes() for path in sorted(SAMPLES.glob("*.json")))
_SECRETS = ("access_key", "secret_access_key", "session_token", "password", "token")
_AWKWARD: tuple[Any, ...] = (
    *(None, True, 0, -1, 3, 2.5, 1e308, 10**400, "", "x", "..", "/etc/passwd", "<no value>", "1h30m", "3gb", "٣"),
    *(
        "\0",
        "\ud800",
        "a/b",
        "-m",
        "s3://host/bucket/key.tar",
        "https://%00:x%ff@[::1]/k",
        "file:///tmp/x",
        "x" * 300,
        [],
        {},
        [[]],
        [None],
    ),
    *({"": ""}, {"a": {"b": None}}, ["a", "b'"], "%PATH%", "é" * 130),
)


def seeds() -> Iterable[bytes]:
    return noise(40)


def check(data: bytes) -> None:
    picks = Picks(data)
    document = json.loads(picks.one(_SAMPLES))
    _plant(document, picks)
    for _ in range(picks.below(6)):
        _spoil(document, picks)
    body = json.dumps(document).encode()
    assert CANARY not in repr(salvaged(body))
    try:
        request = parse_request(body)
    except InvalidMessageError as error:
        assert CANARY not in f"{error} {error.path} {error.found} {error.accepted}"
        return
    use(request)
    assert CANARY not in repr(request)


def _plant(document: dict[str, Any], picks: Picks) -> None:
    """The canary where credentials are: in variables, blocks and addresses."""
    secret: Any = picks.one((CANARY, [CANARY], {"x": CANARY}, f"{CANARY}\0", f"\ud800{CANARY}", 7))
    for name in ("AWS_SECRET_ACCESS_KEY", "MY_TOKEN"):
        document["config"].setdefault("env", {})[name] = secret
    kind = picks.one(("aws", "plain", "jwt"))
    block: Any = {kind: secret if kind == "jwt" else dict.fromkeys(_SECRETS, secret)}
    for artifact in document["experiment"]["artifacts"].values():
        if picks.flag():
            artifact["credentials"] = deepcopy(block)
        if picks.flag() and isinstance(artifact.get("qualified"), str):
            scheme, _, rest = artifact["qualified"].partition("://")
            artifact["qualified"] = f"{scheme}://user:{CANARY}@{rest}"
    for place in ("storage", "database"):
        document["config"][place] = {"type": "s3", "endpoint": "http://host", "credentials": deepcopy(block)}


def _spoil(document: Any, picks: Picks) -> None:
    """Put something odd in the place of one value, keep or drop it, or spell its name another way. What holds a
    credential is replaced as a whole only: elsewhere it would be none."""
    node = document
    while True:
        names = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not names:
            return
        name = picks.one(names)
        inner = node[name]
        if isinstance(inner, dict | list) and inner and picks.below(4):
            node = inner
            continue
        match picks.below(4):
            case 0 if isinstance(node, dict):
                del node[name]
            case 1 if isinstance(node, dict):
                node[picks.text(8)] = deepcopy(picks.one(_AWKWARD))
            case _:
                node[name] = deepcopy(picks.one(_AWKWARD))
        return
