"""The StudioML client with a RabbitMQ queue, S3 storage and an S3 database; the runner is somewhere else."""

import json
import os
import subprocess

import pytest

from studio_runner.testing import command_path

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]


def gate(client):
    """The file that `wait.py` waits for."""
    return client.home / "gate"


def front_end(client, *words):
    """Run `studio-runner` as the client's user; what it wrote."""
    variables = {**os.environ, "HOME": str(client.home)}
    variables.pop("STUDIOML_HOME", None)
    done = subprocess.run(
        [command_path(), *words], cwd=client.home, env=variables, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def client(client, sections):
    client.configure(**sections, env={"GATE": str(gate(client))}, saveWorkspaceFrequency="1s")
    return client


@pytest.fixture
def durable(client, sections, runner):
    """The client's queues and messages outlive the broker."""
    client.configure(**sections | {"cloud": {"queue": {**sections["cloud"]["queue"], "persistent": True}}})


@pytest.fixture
def ended(client, until):
    """The experiment as the client sees it when it is over."""

    def wait(key):
        return until(lambda: (seen := client.experiment(key))["time_finished"] and seen)

    return wait


@pytest.fixture
def objects(s3, bucket):
    """The keys in the storage bucket that begin so."""

    def look(prefix):
        found = s3.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [one["Key"] for one in found.get("Contents", [])]

    return look


def test_an_experiment_is_run_and_its_results_are_where_the_client_looks(
    client, runner, queue, ended, objects, until
):
    project = client.project("train.py")
    words = ("--project", "demo", "--max-duration", "20m", "train.py", "10", "--rate=0.1", "a b")
    key = client.submit(queue, *words, project=project)
    seen = ended(key)
    assert (seen["status"], seen["owner"], seen["project"]) == ("finished", "guest", "demo")
    assert seen["time_added"] <= seen["time_started"] <= seen["time_finished"]
    lines = client.output(key).splitlines()
    assert 'arguments ["10", "--rate=0.1", "a b"]' in lines
    assert "python 3 8 with studio" in lines
    assert client.fetch(key, "modeldir") == {"weights": b"1.5"}
    assert client.fetch(key, "tb") == {"events": b"loss 0.5"}
    (samples,) = client.fetch(key, "_metrics").values()
    assert json.loads(samples.splitlines()[0])["memory"] > 0
    (metadata,) = objects(f"experiments/{key}/metadata/")
    assert metadata.startswith(f"experiments/{key}/metadata/scrape-host-")
    until(lambda: not runner.leftovers())


def test_its_status_is_right_all_the_way(client, runner, queue, ended, until):
    key = client.submit(queue, "wait.py", project=client.project("wait.py"))
    running = until(lambda: (seen := client.experiment(key))["status"] == "running" and seen)
    assert running["time_started"]
    assert not running["time_finished"]
    until(lambda: client.experiment(key)["time_last_checkpoint"] > running["time_started"])
    until(lambda: client.fetch(key, "modeldir") == {"begun": b"yes"})
    gate(client).touch()
    assert ended(key)["status"] == "finished"
    assert "the gate is open" in client.output(key)


def test_what_the_client_stops_is_stopped_within_seconds(client, runner, queue, ended, until):
    key = client.submit(queue, "wait.py", project=client.project("wait.py"))
    until(lambda: list(runner.attempts.glob("*/modeldir/begun")))
    until(lambda: client.experiment(key)["status"] == "running")
    client.stop(key)
    until(lambda: not runner.processes(), patience=60)
    assert ended(key)["status"] == "stopped"
    output = client.output(key)
    assert "waiting\n" in output
    assert "[studio-runner] stopped" in output
    assert client.fetch(key, "modeldir") == {"begun": b"yes"}


def test_what_the_client_stops_before_it_began_is_stopped(client, elsewhere, options, queue, ended):
    key = client.submit(queue, "wait.py", project=client.project("wait.py"))
    client.stop(key)
    with elsewhere.daemon(*options):
        assert ended(key)["status"] == "stopped"
    assert "[studio-runner] stopped" in client.output(key)
    assert not elsewhere.leftovers()


def test_the_runners_front_end_reads_the_clients_configuration(client, runner, queue, ended, until):
    """`studio-runs list` of these clients shows nothing of an S3 database."""
    key = client.submit(queue, "wait.py", project=client.project("wait.py"))

    def status():
        listed = {one["key"]: one["status"] for one in json.loads(front_end(client, "list", "--json"))}
        return listed[key]

    until(lambda: status() == "running")
    until(lambda: "waiting\n" in front_end(client, "logs", key))
    gate(client).touch()
    assert ended(key)["status"] == status() == "finished"
    front_end(client, "fetch", key, "modeldir", "here")
    assert (client.home / "here" / "begun").read_text() == "yes"


def test_a_script_that_fails_says_so_to_the_client(client, runner, queue, ended):
    project = client.project()
    (project / "fails.py").write_text('raise SystemExit("no data")')
    key = client.submit(queue, "fails.py", project=project)
    assert ended(key)["status"] == "finished"
    output = client.output(key)
    assert "no data" in output
    assert "[studio-runner] script_failed" in output


@pytest.mark.usefixtures("durable")
def test_a_hyperparameter_search_is_run(client, queue, ended, objects):
    sweep = client.submit(queue, "--hyperparam", "rate=0.1,0.2", "sweep.py", project=client.project("sweep.py"))
    keys = {found.split("/")[1] for found in objects(f"experiments/{sweep}__opt__")}
    assert [ended(key)["status"] for key in keys] == ["finished"] * 2
    rates = sorted(client.output(key).splitlines()[-1] for key in keys)
    assert rates == ["it is 0.1", "it is 0.2"]


def test_captured_and_reused_artifacts_are_there(client, runner, queue, ended):
    project = client.project("train.py")
    first = client.submit(queue, "train.py", project=project)
    assert ended(first)["status"] == "finished"
    (project / "data.txt").write_text("seven")
    (project / "again.py").write_text(
        "import os\n"
        "weights = open('../model/weights').read()\n"
        "data = open('../data/data.txt').read()\n"
        "open('../mine/product', 'w').write(weights + ' ' + data)\n"
    )
    captured = [f"{client.home}/{label}:{label}" for label in ("mine", "_results")]
    captured = ("--capture-once", "data.txt:data", "--capture", captured[0], "--capture", captured[1])
    words = (*captured, "--reuse", f"{first}/modeldir:model", "again.py")
    second = client.submit(queue, *words, project=project)
    assert ended(second)["status"] == "finished", client.output(second)
    assert client.fetch(second, "mine") == {"product": b"1.5 seven"}
    results = json.loads(client.fetch(second, "_results")["_results.json"])
    assert (results["exit_msg"], results["experiment_id"]) == ("ok", second)
