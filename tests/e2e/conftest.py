"""What end-to-end tests share. A module has its own `place`, with whatever daemons it needs."""

import os
import time

import pytest

from studio_runner.testing import installation

PATIENCE = 120

NEIGHBOUR = """
import os, time
gate = os.environ["GATE"]
open(gate, "w").close()
while os.path.exists(gate):
    time.sleep(0.01)
print("all is well")
"""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where environments are kept, so that each is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(cache):
    with installation(cache) as made:
        yield made


@pytest.fixture
def until():
    """Wait for something to be true; what it comes to."""

    def wait(true, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while not (found := true()):
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)
        return found

    return wait


@pytest.fixture
def told(place):
    """Where people look: stored output, results, record and the queue all say how the experiment ended."""

    def look(key, reason, *words):
        results, record = place.wait(key), place.ended(key)
        said = record["studio_runner"]
        assert (results.reason, said["reason"]) == (reason, reason), results.exit_msg
        assert results.sentence == said["sentence"]
        assert record["status"] == ("stopped" if reason == "stopped" else "finished")
        assert results.ok == (reason == "completed")
        for word in words:
            assert word in results.sentence
        if reason != "completed":
            assert f"[studio-runner] {reason}: {results.sentence}\n" in place.output(key)
            assert results.exit_msg.startswith(reason)
            assert results.sentence in results.exit_msg
        assert not any(key.encode() in letter["body"] for letter in place.dead_letters())
        return results

    return look


@pytest.fixture
def all_is_well(place, until):
    """An experiment that runs meanwhile and one that runs afterwards are none the worse, and nothing is left."""
    gate = place.home / "neighbour"
    beside = len(os.sched_getaffinity(0)) > 1
    if beside:
        neighbour = place.submit({"main.py": NEIGHBOUR}, config={"env": {"GATE": str(gate)}})
        until(gate.exists)
    yield
    gate.unlink(missing_ok=True)
    for key in ([neighbour] if beside else []) + [place.submit({"main.py": 'print("all is well")'})]:
        assert place.wait(key).ok
        assert place.output(key).endswith("all is well\n")
    until(lambda: not place.leftovers())
