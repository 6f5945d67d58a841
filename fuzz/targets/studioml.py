"""`config.yaml` of the StudioML client."""

import json
from collections.abc import Iterable
from pathlib import Path

from studio_runner.config.studioml import parse_studio_config
from studio_runner.errors import ConfigError

MAX_LEN = 2048
WORDS = (
    *(
        b"database:",
        b"storage:",
        b"env:",
        b"queue:",
        b"pip:",
        b"verbose:",
        b"cloud:",
        b"experimentLifetime:",
        b"\n  ",
    ),
    *(
        b"!!int ",
        b"!!float ",
        b"!!bool ",
        b"!!timestamp ",
        b"!!binary ",
        b"!!set ",
        b"!!omap ",
        b"&a ",
        b"*a",
        b"<<: ",
    ),
    *(
        b"${HOME}",
        b"$HOME",
        b"{",
        b"[",
        b"- ",
        b"? ",
        b"|",
        b">",
        b"%YAML 1.1",
        b"---",
        b"0x",
        b"1:1:1",
        b".inf",
        b"2001-01-01",
    ),
)
CANARY = "CanaryNotASecret0123456789"
_ENVIRON = {"HOME": "/home/user", "EMPTY": ""}


def seeds() -> Iterable[bytes]:
    yield (
        b"database:\n  type: s3\n  endpoint: http://host:9000\n  bucket: metadata\n  authentication: none\n"
        b"storage:\n  type: s3\n  endpoint: http://host:9000\n  credentials: {aws: {access_key: a, secret_access_key: b}}\n"
        b"queue: local\nserver:\n  authentication: None\nresources_needed:\n  cpus: 2\n  ram: 3g\n"
        b"env:\n  PATH: '%PATH%:./bin'\n  AWS: ${HOME}\n  ON: yes\n  N: 010\npip:\n  - a==1\n"
        b"cloud:\n  queue:\n    rmq: amqp://u:p@host/\nverbose: debug\nsaveWorkspaceFrequency: 3m\nexperimentLifetime: 30m\n"
    )
    yield b"a: &a {b: 1}\nc: *a\nd: [1, 2.5, .inf, 2001-01-01, !!binary aGk=, 0x1f, 1:30, ~]\ne:\n  <<: *a\n"
    yield from (
        b"queue: !!int 3",
        b"- a",
        b"{}",
        b"",
        b"a: |\n  text\n",
        b"env: {A: [1]}",
        b"experimentLifetime: x",
    )


def check(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        config = parse_studio_config(text, Path("config.yaml"), _ENVIRON)
    except ConfigError as error:
        str(error)
        return
    json.dumps(config.document)
    repr(config)
    assert all(isinstance(value, str) for value in config.env.values())
