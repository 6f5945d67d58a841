"""What messages name on the runner's own machine is where the operator says, or nowhere: no container is in between."""

import json

import pytest

from studio_runner.testing import artifact, installation


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def place(cache, shared):
    with installation(cache) as made, made.daemon("--storage-directories", str(shared)):
        yield made


def submitted(place, label, path, **fields):
    """An experiment with one more artifact, which it changes."""
    script = f"print(open('../{label}/x', 'w').write('it ran'))"
    key, body = place.request(place.workspace({"main.py": script}))
    document = json.loads(body)
    document["experiment"]["artifacts"][label] = artifact(path, **fields)
    place.publish(json.dumps(document).encode())
    return key


@pytest.mark.parametrize("mutable", [False, True], ids=["read", "written"])
def test_a_file_that_only_the_runner_may_touch_is_not_touched(place, mutable):
    secret = place.home / "authorized_keys"
    secret.write_text("canary")
    key = submitted(place, "mine", secret, mutable=mutable)
    said = place.ended(key)["studio_runner"]
    assert said["reason"] == "artifact_invalid"
    assert "in no directory of this machine that a message may name" in said["sentence"]
    assert secret.read_text() == "canary"
    assert not place.stored(key, "output").exists()


def test_what_the_operator_shares_is_used(place, shared, told):
    told(submitted(place, "mine", shared / "mine.tar", mutable=True), "completed")
    assert (shared / "mine.tar").exists()
