"""The StudioML client on one machine: its local queue, storage and database are directories."""

import json

import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture
def client(client, machine):
    storage = {"type": "local", "endpoint": str(machine.home), "bucket": "store"}
    (machine.store / "db").mkdir(parents=True)
    client.configure(storage=storage, database={"type": "local", "endpoint": str(machine.store), "bucket": "db"})
    return client


def test_an_experiment_on_a_local_queue_of_the_client_is_run(client, machine):
    key = client.submit("local_mine", "train.py", "10", "--rate=0.1", "a b", project=client.project("train.py"))
    with machine.daemon("--cpu-only"):
        assert machine.ended(key)["status"] == "finished"
    lines = client.output(key).splitlines()
    assert 'arguments ["10", "--rate=0.1", "a b"]' in lines
    assert "python 3 8 with studio" in lines
    assert client.fetch(key, "modeldir") == {"weights": b"1.5"}
    assert client.fetch(key, "tb") == {"events": b"loss 0.5"}
    assert json.loads(client.fetch(key, "_metrics").popitem()[1].splitlines()[-1])
    assert not machine.leftovers()
