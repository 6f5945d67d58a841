"""A message that nobody had before and nobody will have again: what is known of it alone keeps its secrets."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from studio_runner.testing import QUEUE, command_path, installation
from tests.e2e.canaries import files_below

MESSAGES = re.compile(r"/queue/(?!.*\.reason\.json$)|/blobstore/")
ARGUMENTS = {
    "of its own": ["--password", "canary-argument"],
    "with others": ["--steps 3 --password canary-argument --verbose"],
    "quoted": ["'--password=canary-argument and more'"],
}


@pytest.fixture(scope="module")
def served(cache):
    """An installation whose runner has an HTTP side."""
    with installation(cache) as place, place.daemon("--http-address", "127.0.0.1:0", "--log-level", "debug"):
        yield place


def said_of(place, key):
    """All that anybody can ask."""
    found = re.search(r" at (http://\S+)/", place.log())
    with httpx.Client(base_url=found[1], trust_env=False) as http:
        pages = [http.get(path).text for path in ("/", f"/experiments/{key}", f"/api/v1/experiments/{key}")]
        pages += [http.get("/api/v1/experiments").text]
    patience = ("--storage-patience", "1s")
    for words in (
        ["show", *patience, key],
        ["show", "--json", *patience, key],
        ["list", "-n", "0"],
        ["list", "--json"],
    ):
        done = subprocess.run(
            [command_path(), *words], check=True, capture_output=True, text=True, env=place.environment()
        )
        pages += [done.stdout, done.stderr]
    return "\n".join(pages)


def written(place):
    files = files_below(place.home, but=MESSAGES)
    return [name for name, content in files.items() if b"canary-" in content]


@pytest.mark.parametrize("args", ARGUMENTS.values(), ids=ARGUMENTS)
def test_of_one_that_cannot_be_read(served, args):
    key, body = served.request(served.workspace({"main.py": ""}), args=args, max_duration="canary of time")
    served.publish(body)
    assert served.ended(key)["studio_runner"]["reason"] == "invalid_message"
    assert [line for line in said_of(served, key).splitlines() if "canary-" in line] == []
    assert written(served) == []


@pytest.mark.parametrize(
    "address", ["s3://me:canary@canary-pass@127.0.0.1:1/b/k", "s3://me:canary/canary-pass@127.0.0.1:1/b/k"]
)
def test_of_one_with_an_address_as_it_should_not_be(served, address):
    key, body = served.request(served.workspace({"main.py": ""}))
    document = json.loads(body)
    document["experiment"]["artifacts"]["data"] = {"qualified": address, "mutable": False}
    document["config"]["database"] = {"type": "local", "endpoint": address}
    served.publish(json.dumps(document).encode())
    assert served.ended(key)["studio_runner"]["reason"] != "completed"
    assert [line for line in said_of(served, key).splitlines() if "canary-" in line] == []
    assert written(served) == []


def test_of_one_whose_results_somebody_else_wrote(cache):
    """A runner that finds results only tells of them; whoever may write to the store wrote the sentence."""
    with installation(cache) as place:
        workspace = place.workspace({"main.py": "raise SystemExit(3)"})
        key, body = place.request(workspace, config={"env": {"MY_TOKEN": "canary-token"}})
        place.publish(body)
        program = (sys.executable, str(Path(__file__).parent / "programs" / "dies_at.py"), "uploaded", "start")
        assert place.start(program=program).wait(120) == -signal.SIGKILL
        [fence] = place.store.rglob("_attempt.json")
        last = json.loads(fence.read_bytes())
        last["results"]["sentence"] = "It had canary-token."
        fence.write_text(json.dumps(last))
        with place.daemon("--limit-idle-duration", "1s") as daemon:
            own = place.ended(key)["studio_runner"]
            daemon.wait(60)
    assert own["sentence"] == "It had ***."


def test_of_one_whose_record_is_its_senders(served):
    """It has the arguments as they were sent; only the configuration tells that one of them is a secret."""
    configuration, project = served.home / "config.yaml", served.home / "project"
    configuration.write_text(json.dumps({"env": {"MY_TOKEN": "canary-position"}}))
    project.mkdir()
    (project / "main.py").touch()
    (project / "none.txt").touch()
    words = ["submit", "-q", QUEUE, "--requirements", "none.txt", "-e", "of_one", "main.py", "canary-position"]
    subprocess.run([command_path(), *words], check=True, env=served.environment(), cwd=project)
    assert served.ended("of_one")["args"] == ["canary-position"]
    said = said_of(served, "of_one")
    configuration.unlink()
    assert [line for line in said.splitlines() if "canary-" in line] == []
    assert "main.py ***" in said
