"""Freeze lists of other machines' line by line, references to images, and addresses of artifacts."""

from collections.abc import Iterable

from studio_runner.environments.images.reference import Reference
from studio_runner.environments.requirements import Target, read_requirements, requirement_name
from studio_runner.errors import EnvironmentFailedError
from studio_runner.messages.artifact import Location, credentials_in_address
from studio_runner.messages.refusal import NotAcceptedError
from studio_runner.messages.secrets import mask_urls

MAX_LEN = 2048
WORDS = (
    *(
        b"==",
        b" @ ",
        b"git+https://",
        b"#egg=",
        b"file:///",
        b"-e ",
        b"--index-url ",
        b"-i ",
        b"-f ",
        b"--no-binary=",
    ),
    *(
        b"${TOKEN}",
        b"${URL}",
        b".whl",
        b".tar.gz",
        b"-py3-none-any.whl",
        b"tensorflow==1.4",
        b"https://u:p@h/",
        b"\\\n",
    ),
    *(b" #", b";", b"[", b"]", b"sha256:", b"docker.io/", b"s3://", b"@", b"://", b"?", b"%"),
)
_VARIABLES = {"TOKEN": "CanaryNotASecret0123456789", "URL": "https://host/simple", "EMPTY": "", "BAD": "a\nb"}
_TARGETS = (Target((2, 7)), Target((3, 8, 1)), Target((3, 11), gpus=True))


def seeds() -> Iterable[bytes]:
    yield b"numpy==1.2.3\n-e git+https://host/repo@abc#egg=name&subdirectory=x\nname @ git+https://host/x\nPython==2.7.12"
    yield b"name @ file:///home/x/name-1.0-py3-none-any.whl\n/home/x/pkg-2.0.tar.gz\nwsgiref==0.1.2\nargparse==1.2.1"
    yield b"tensorflow==1.4.0\nsetuptools==40\npkg_resources==0.0.0\n--extra-index-url https://${TOKEN}@host/simple"
    yield b"-i https://host/simple --pre\n--no-binary=a,b\n-r other.txt\n--find-links ${URL}\na \\\n == 1 # comment"
    yield from (
        b"registry.host:5000/team/box:1.2@sha256:" + b"a" * 64,
        b"ubuntu",
        b"user/name:tag",
        b"[::1]:5000/x",
    )
    yield from (
        b"s3://u:p@host:9000/bucket/a%20b?x#y",
        b"file://home/me/x",
        b"gs://bucket/key",
        b"https://h/p?sig=1",
    )


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    if _VARIABLES["TOKEN"] not in text:  # what a message says itself is no secret of a variable's
        for target in _TARGETS:
            _requirements(text.split("\n"), target)
    for scheme in ("docker", "dockerhub", "oras", "library", "shub"):
        _reference(scheme, text)
    _address(data.decode(errors="replace"))  # messages have no others


def _requirements(lines: list[str], target: Target) -> None:
    try:
        found = read_requirements(lines, _VARIABLES, target)
    except EnvironmentFailedError as error:
        assert _VARIABLES["TOKEN"] not in f"{error} {error.hint}"
        return
    assert not any(_VARIABLES["TOKEN"] in note for note in found.notes)
    assert not any("\n" in line or "\r" in line for line in found.lines)
    assert not any(line.startswith("-") for line in found.lines)
    for line in found.without_tools():
        requirement_name(line)
    assert read_requirements(lines, _VARIABLES, target) == found


def _reference(scheme: str, text: str) -> None:
    try:
        found = Reference.parse(scheme, text)
    except EnvironmentFailedError as error:
        str(error)
        return
    kind, _, rest = found.address.partition("://")
    assert kind == found.scheme
    assert Reference.parse(scheme, rest) == found
    assert found.pin("sha256:" + "0" * 64).pinned


def _address(text: str) -> None:
    mask_urls(text)
    try:
        credentials_in_address(text)
        location = Location.parse(text)
    except NotAcceptedError as error:
        str(error).encode()
        return
    repr(location)
    assert location.key
