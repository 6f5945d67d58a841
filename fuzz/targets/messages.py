"""Request messages as bytes: what is read of them, whole or in part, and all that is asked of one afterwards."""

import json
import re
from collections.abc import Iterable

from fuzz.target import SAMPLES
from studio_runner.errors import InvalidMessageError
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.request import Request, parse_request, short_key
from studio_runner.messages.salvage import salvaged
from studio_runner.messages.secrets import without_secrets
from studio_runner.messages.variables import expand
from studio_runner.reports.records import without_credentials

MAX_LEN = 16384
WORDS = (
    *(b'"experiment"', b'"config"', b'"key"', b'"pythonver"', b'"filename"', b'"args"', b'"artifacts"', b'"env"'),
    *(b'"qualified"', b'"url"', b'"mutable"', b'"unpack"', b'"hash"', b'"credentials"', b'"aws"', b'"jwt"'),
    *(b'"resources_needed"', b'"ram"', b'"gpuMem"', b'"max_duration"', b'"time_added"', b'"saveFrequency"'),
    *(
        b"null",
        b"true",
        b"1e400",
        b"NaN",
        b'"\\ud800"',
        b'"\\u0000"',
        b"s3://",
        b"file://",
        b"docker://",
        b"[[[[",
        b"%00",
        b"@",
    ),
)
_COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,47}")


def seeds() -> Iterable[bytes]:
    yield from (path.read_bytes() for path in sorted(SAMPLES.glob("*.json")))
    yield b'{"experiment":{"key":"k","filename":"-m","args":["m"],"artifacts":{}}}'
    yield b'{"experiment":{"key":"k","filename":null,"artifacts":{"_singularity":{"qualified":"docker://a/b"}}}}'


def check(data: bytes) -> None:
    _salvage(data)
    try:
        request = parse_request(data)
    except InvalidMessageError as error:
        str(error).encode()
        return
    use(request)
    assert request.to_json() == data
    again = parse_request(json.dumps(request.document).encode())
    assert (again.experiment, again.config) == (request.experiment, request.config)
    assert request.replace(status="x").experiment.status == "x"


def _salvage(data: bytes) -> None:
    found = salvaged(data)
    if found.experiment is not None:
        json.dumps(without_secrets(without_credentials(found.experiment)))
    assert all(isinstance(secret, str) for secret in found.secrets)


def use(request: Request) -> None:
    """All that the runner asks of a request."""
    assert _COMPONENT.fullmatch(short_key(request.key))
    words = script_arguments(request.experiment.args)
    assert not any("\0" in word for word in words)
    expand(request.environment_variables, {"HOME": "/home/user"})
    json.dumps(without_secrets(request.document))
    repr(request).encode()
    _ = request.resources, request.lifetime_deadline, request.owner, request.project, request.checkpoint_period
    for artifact in request.artifacts.values():
        repr(request.credentials(artifact)).encode()
        repr((artifact, artifact.location, artifact.name, artifact.address)).encode()
