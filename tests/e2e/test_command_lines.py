"""What a person types to a command and nobody else is to see: it is not in the list of processes."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from studio_runner.testing import command_path, installation

SECRET = "canary-Of*The=Line/é"
ADDRESS = f"amqp://me:{SECRET.replace('/', '%2F')}@127.0.0.1:1/"
INSIDE = "from studio_runner.cli import main\nmain.main()"
SCRIPT = """
import os, sys, time
print("given", *sys.argv[1:], flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""


@contextmanager
def running(place, program, *words):
    """The process, and a file of what it says."""
    said = place.home / "said"
    environ = {**place.environment(), "STUDIO_RUNNER_HTTP_ADDRESS": "none"}
    with said.open("wb") as file:
        process = subprocess.Popen([*program, *words], env=environ, stdout=file, stderr=file, cwd=place.home)
    try:
        yield process, said
    finally:
        process.kill()
        process.wait()


def until_said(said, words, patience=60):
    deadline = time.monotonic() + patience
    while words not in (text := said.read_text()):
        assert time.monotonic() < deadline, text
        time.sleep(0.02)
    return text


def words_of(process):
    return Path(f"/proc/{process.pid}/cmdline").read_bytes().decode().split("\0")


@contextmanager
def serving(place, program, *words):
    """A runner while it runs an experiment: its command line, and a file of what it says. It ends well."""
    gate, begun = place.home / "gate", place.home / "begun"
    ending = f"open({str(begun)!r}, 'w')\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)"
    key = place.submit({"main.py": f"import os, time\n{ending}"})
    with running(place, program, *words) as (process, said):
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.02)
        yield process, said
        gate.touch()
        place.ended(key)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize("program", [(command_path(), "start"), (sys.executable, "-c", INSIDE, "start")])
@pytest.mark.parametrize("words", [["--amqp-url", ADDRESS], [f"-amqp-url={ADDRESS}"]])
def test_a_runner_hides_the_password_of_its_broker(cache, program, words):
    with installation(cache) as place, serving(place, program, *words, "--lease", "7s") as (process, said):
        shown = words_of(process)
        children = [child.cmdline() for child in psutil.Process(process.pid).children(recursive=True)]
        text = said.read_text()
    assert "is hidden in this command line by now" in text
    assert "use STUDIO_RUNNER_AMQP_URL" in text
    assert "canary" not in f"{text} {shown} {children}"
    assert shown[-3:] == ["--lease", "7s", ""]
    assert shown[-4] == words[-1].partition("me:")[0] + "*" * len(ADDRESS.encode()[7:])


def test_a_script_gets_its_arguments_and_its_runner_shows_none(cache):
    with installation(cache) as place:
        (place.home / "main.py").write_text(SCRIPT)
        (place.home / "none.txt").touch()
        gate = str(place.home / "gate")
        words = ("run", "--requirements", "none.txt", "main.py", gate, "--password", SECRET)
        with running(place, (command_path(),), *words) as (process, said):
            until_said(said, "given")
            shown = words_of(process)
            Path(gate).touch()
            assert process.wait(60) == 0
            text = said.read_text()
    assert shown[-4:] == [gate, "--password", "*" * len(SECRET.encode()), ""]
    assert f"given {gate} --password ***" in text


def test_what_is_no_secret_stays(cache):
    words = ("--queue-match", "^local_", "--sqs-endpoint", "", "--log-level", "debug")
    with installation(cache) as place, serving(place, (command_path(), "start"), *words) as (process, _):
        assert words_of(process)[-8:] == ["start", *words, ""]
