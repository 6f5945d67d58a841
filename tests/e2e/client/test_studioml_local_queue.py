"""The StudioML client on one machine: its local queue, storage and database are directories."""

import json

import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def client(client, machine):
    """Its files are not where the runner has its own."""
    kept = machine.home / "kept"
    kept.mkdir()
    section = {"type": "local", "endpoint": str(kept)}
    env = {"GATE": str(client.home / "gate")}
    client.configure(storage={**section, "bucket": "storage"}, database={**section, "bucket": "meta"}, env=env)
    return client


@pytest.fixture
def ended(client, until):
    """The experiment as the client sees it when it is over."""

    def wait(key):
        return until(lambda: (seen := client.experiment(key))["time_finished"] and seen)

    return wait


def test_an_experiment_on_a_local_queue_of_the_client_is_run(client, machine, ended):
    key = client.submit("local_mine", "train.py", "10", "--rate=0.1", "a b", project=client.project("train.py"))
    with machine.daemon("--cpu-only"):
        seen = ended(key)
    assert seen["status"] == "finished"
    assert seen["time_added"] <= seen["time_started"] <= seen["time_finished"]
    lines = client.output(key).splitlines()
    assert 'arguments ["10", "--rate=0.1", "a b"]' in lines
    assert "python 3 8 with studio" in lines
    assert client.fetch(key, "modeldir") == {"weights": b"1.5"}
    assert client.fetch(key, "tb") == {"events": b"loss 0.5"}
    (samples,) = client.fetch(key, "_metrics").values()
    assert json.loads(samples.splitlines()[0])["memory"] > 0
    assert not machine.leftovers()


def test_what_the_client_stops_is_stopped(client, machine, ended, until):
    key = client.submit("local_mine", "wait.py", project=client.project("wait.py"))
    with machine.daemon("--cpu-only", "--grace", "2s"):
        until(lambda: list(machine.attempts.glob("*/modeldir/begun")))
        until(lambda: client.experiment(key)["status"] == "running")
        client.stop(key)
        assert ended(key)["status"] == "stopped"
        assert not machine.processes()
    assert "[studio-runner] stopped" in client.output(key)
