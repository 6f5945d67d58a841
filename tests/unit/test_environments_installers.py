import pytest

from studio_runner.environments.installers import Trouble, failure, is_noise
from studio_runner.environments.programs import clean

UV_UNSATISFIABLE = """\
error: No solution found when resolving dependencies
  cause: Because pandas==2.2.0 depends on numpy>=1.23.2,<2 and you require pandas==2.2.0, we can conclude that you require numpy>=1.23.2,<2.
         And because you require numpy==1.20.0, we can conclude that your requirements are unsatisfiable."""
UV_OLDER = """\
  \u00d7 No solution found when resolving dependencies:
  ╰─▶ Because nothing was not found in the package registry and you require nothing==1, we can conclude that your
      requirements are unsatisfiable."""
UV_REFUSED = """\
error: Request failed after 3 retries in 9.1s
  cause: Failed to fetch: http://127.0.0.1:9/simple/requests/
  cause: tcp connect error
  cause: Connection refused (os error 111)"""
PIP_MISSING = """\
ERROR: Could not find a version that satisfies the requirement nothing==1 (from versions: none)
ERROR: No matching distribution found for nothing==1"""
PIP_REFUSED = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': Connection refused')'\n"
    + PIP_MISSING
)
UV_BUILD = """\
error: Failed to build `broken==1.0`
  cause: The build backend returned an error
  cause: Call to `setuptools.build_meta.build_wheel` failed (exit status: 1)"""
UV_DISK = """\
error: Failed to install: numpy-2.0.whl
  cause: failed to copy file: No space left on device (os error 28)"""


@pytest.mark.parametrize(
    ("output", "trouble"),
    [
        (UV_UNSATISFIABLE, Trouble.RESOLUTION),
        (UV_OLDER, Trouble.RESOLUTION),
        (PIP_MISSING, Trouble.RESOLUTION),
        (UV_REFUSED, Trouble.NETWORK),
        (PIP_REFUSED, Trouble.NETWORK),
        (
            "error: HTTP status server error (503 Service Unavailable) for url (https://host/simple/six/)",
            Trouble.NETWORK,
        ),
        ("error: HTTP status client error (401 Unauthorized) for url (https://host/simple/six/)", Trouble.OTHER),
        ("fatal: unable to access 'https://host/repo/': Could not resolve host: host", Trouble.NETWORK),
        (UV_BUILD, Trouble.OTHER),
        (UV_DISK, Trouble.DISK),
    ],
)
def test_trouble(output, trouble):
    assert failure(output.splitlines()).trouble is trouble


def test_the_sentence_has_the_error_and_its_last_cause():
    assert failure(UV_REFUSED.splitlines()).sentence == (
        "Request failed after 3 retries in 9.1s: Connection refused (os error 111)"
    )
    assert "numpy>=1.23.2,<2" in failure(UV_UNSATISFIABLE.splitlines()).sentence
    assert "nothing==1" in failure(UV_OLDER.splitlines()).sentence


def test_without_an_error_it_is_the_last_line():
    assert failure(["starting", "Segmentation fault"]).sentence == "Segmentation fault"
    assert failure([]).sentence == "it ended without a word"


@pytest.mark.parametrize("line", ["", "Using Python 3.11.7 environment at: x", "DEPRECATION: Python 2.7 reached"])
def test_noise(line):
    assert is_noise(line)


@pytest.mark.parametrize("line", ["Resolved 2 packages in 3ms", " + six==1.16.0", "error: no"])
def test_words(line):
    assert not is_noise(line)


def test_lines_are_cleaned_of_progress_colour_and_credentials():
    assert clean("  10%\r  50%\r100% done\n", ()) == "100% done"
    assert clean("\x1b[31merror\x1b[0m: no", ()) == "error: no"
    assert clean("Looking at https://me:pw@host/simple", ()) == "Looking at https://***@host/simple"
    assert clean("Cloning https://host/?token=s3cr3t", ("s3cr3t",)) == "Cloning https://host/?token=***"
