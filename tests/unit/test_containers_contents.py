import json

import pytest

from studio_runner.environments.containers.contents import Contents, Memory, read_answers, require_python
from studio_runner.environments.containers.failure import fatal_words
from studio_runner.environments.images.base import Image
from studio_runner.errors import EnvironmentFailedError


def answer(path, version, *, real=None, packages=()):
    said = {"path": path, "real": real or path, "version": version, "packages": list(packages)}
    return "studio-runner-python " + json.dumps(said)


CONTENTS = read_answers(
    [
        "a greeting of the image's shell",
        answer(
            "/opt/conda/bin/python",
            [3, 10, 4],
            packages=[["numpy", "1.26.0", []], ["a", "1", ["numpy>=1; x", "b"]]],
        ),
        answer("/usr/bin/python3", [3, 11, 2], real="/usr/bin/python3.11"),
        answer("/usr/bin/python3.11", [3, 11, 2]),
        answer("/usr/bin/python2", [2, 7, 18]),
        "studio-runner-python not json",
        'studio-runner-python {"path": 1}',
    ]
)


@pytest.fixture
def image(tmp_path):
    return Image(tmp_path / "box.sif", "sif", "sha256:1234", "docker://box")


def test_several_names_of_an_interpreter_are_one():
    assert [python.path for python in CONTENTS.pythons] == [
        "/opt/conda/bin/python",
        "/usr/bin/python3",
        "/usr/bin/python2",
    ]


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("", "/opt/conda/bin/python"),
        ("3", "/usr/bin/python3"),
        ("3.10", "/opt/conda/bin/python"),
        ("3.1", None),
        ("2", "/usr/bin/python2"),
        ("3.11.2", "/usr/bin/python3"),
        ("3.11.7", None),
        ("4", None),
    ],
)
def test_a_version_prefix_means_the_newest_that_matches(prefix, path):
    found = CONTENTS.choose(prefix)

    assert (found.path if found else None) == path


def test_what_packages_need_is_their_names():
    python = CONTENTS.choose("3.10")

    assert [(one.name, one.requires) for one in python.packages] == [("numpy", ()), ("a", ("numpy", "b"))]


def test_the_next_best_is_said(image):
    python, note = require_python(CONTENTS, "3.8", image)

    assert python.path == "/usr/bin/python3"
    assert note == "the image has no Python 3.8; its python 3.11.2 is used"


def test_another_major_version_is_no_choice(image):
    with pytest.raises(
        EnvironmentFailedError, match=r"docker://box has no Python 4 on its PATH; it has python 3\.10\.4"
    ):
        require_python(CONTENTS, "4", image)


def test_an_image_without_python_is_said(image):
    with pytest.raises(EnvironmentFailedError, match="has no Python on its PATH; it has none at all"):
        require_python(Contents(()), "", image)


def test_what_an_image_has_is_remembered(tmp_path, image):
    Memory(tmp_path).put(image, CONTENTS)

    assert Memory(tmp_path).get(image) == CONTENTS


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99, "pythons": []}', "[]"])
def test_what_cannot_be_read_is_asked_again(tmp_path, image, text):
    Memory(tmp_path).put(image, CONTENTS)
    next(tmp_path.glob("*.json")).write_text(text)

    assert Memory(tmp_path).get(image) is None


@pytest.mark.parametrize(
    ("code", "output", "words"),
    [
        (255, "FATAL:   container creation failed: no loop device\n", "container creation failed: no loop device"),
        (255, 'INFO:    Converting SIF file\nFATAL:   "x": not found\n', '"x": not found'),
        (255, "WARNING: about something\nFATAL:   no", "no"),
        (255, "the script's own\nFATAL:   something else\n", None),
        (255, "FATAL: of the script\n", None),
        (255, "", None),
        (1, "FATAL:   container creation failed\n", None),
        (1, "INFO   : an aside\nERROR  : Failed to create user namespace: no\n", "Failed to create user namespace: no"),
        (1, "ERROR  : something else\n", None),
        (255, "ERROR  : Failed to create user namespace: no\n", None),
        (0, "", None),
        (None, "FATAL:   container creation failed\n", None),
    ],
)  # fmt: skip
def test_the_runtimes_failures_are_told_from_the_scripts(code, output, words):
    assert fatal_words(code, output.encode()) == words
