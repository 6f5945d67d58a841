"""What a runtime says when it cannot pull an image, as errors that somebody can act upon. The lines are its own."""

import pytest

from studio_runner.environments.images.trouble import NoRoomError, pull_error, sentence
from studio_runner.errors import (
    ArtifactInvalidError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    UnauthorisedError,
)

NAME = "docker://ghcr.io/team/box:1"
FATAL = (
    "FATAL:   While making image from oci registry: error fetching image to cache: while building SIF from layers: "
)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "conveyor failed to get: reading manifest 1 in ghcr.io/team/box: manifest unknown",
            EnvironmentFailedError,
        ),
        ("conveyor failed to get: requested access to the resource is denied", UnauthorisedError),
        ("conveyor failed to get: unauthorized: authentication required", UnauthorisedError),
        ("conveyor failed to get: GET https://ghcr.io/v2/: UNAUTHORIZED", UnauthorisedError),
        (
            'Get "https://ghcr.io/v2/": dial tcp 1.2.3.4:443: connect: connection refused',
            EnvironmentUnavailableError,
        ),
        ("dial tcp: lookup ghcr.io: no such host", EnvironmentUnavailableError),
        ("net/http: TLS handshake timeout", EnvironmentUnavailableError),
        ("tls: failed to verify certificate: x509: certificate has expired", EnvironmentUnavailableError),
        ("unexpected EOF", EnvironmentUnavailableError),
        ("unexpected status code 503 Service Unavailable", EnvironmentUnavailableError),
        ("TOOMANYREQUESTS: You have reached your pull rate limit", EnvironmentUnavailableError),
        ("error verifying sha256 checksum after reading 4 bytes; got x, want y", ArtifactInvalidError),
        ("while extracting layer: gzip: invalid header", ArtifactInvalidError),
        ("no child with platform linux/amd64 in index", ArtifactInvalidError),
        ("write /cache/blob: no space left on device", NoRoomError),
        ("while creating squashfs: create command failed: write: no space left on device", NoRoomError),
        ("unable to create squashfs: mksquashfs not found", EnvironmentFailedError),
        ("something that nobody has seen yet", EnvironmentFailedError),
    ],
)
def test_the_kind_of_trouble(words, kind):
    error = pull_error(NAME, ["INFO:    Starting build...", FATAL + words])
    assert type(error) is kind
    assert NAME in str(error)
    assert words.rpartition(": ")[2] in str(error)
    assert "While making image" not in str(error)


def test_a_full_disk_comes_before_what_it_breaks():
    lines = [FATAL + "while extracting layer: unexpected EOF: no space left on device"]
    assert isinstance(pull_error(NAME, lines), NoRoomError)


def test_the_last_fatal_line_counts():
    assert sentence(["FATAL:   first", "INFO:    x", "FATAL:   second", "INFO:    cleaning up"]) == "second"


@pytest.mark.parametrize(
    ("lines", "said"),
    [([], "it said nothing"), (["", " "], "it said nothing"), (["WARNING: odd", "killed"], "killed")],
)
def test_when_it_says_little(lines, said):
    assert sentence(lines) == said


def test_long_words_are_cut():
    assert len(sentence([FATAL + "x" * 5000])) < 500
