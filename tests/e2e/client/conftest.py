"""Existing StudioML clients, unmodified, in environments and homes of their own."""

import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from studio_runner.testing import Installation, installation

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "programs"
NO_PYTHON = 3
RESOURCES = {"cpus": 1, "ram": "300m", "hdd": "500m", "gpus": 0}


@pytest.fixture(scope="session")
def studioml():
    """The directory of the clients' environments: `client` and `completion-service`. The first test that asks for it
    makes them, which takes minutes."""
    directory = ROOT / "build" / "studioml"
    command = [sys.executable, ROOT / "scripts/install-studioml-client", directory]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode == NO_PYTHON:
        complaint = f"NOT TESTED against the studioml package: {made.stderr}"
        pytest.fail(complaint) if os.environ.get("CI") else pytest.skip(complaint)
    assert made.returncode == 0, made.stderr
    return directory


class LostCountError(AssertionError):
    """The client's own race: a broker that confirms a message before the client has noted that it sent it (it happens
    once in some dozens of times) ends the client's thread, and it waits in vain."""


def again_if_lost(attempt, tries=3):
    """What `attempt` comes to, in a try in which the client keeps count."""
    for _ in range(tries - 1):
        try:
            return attempt()
        except LostCountError:
            continue
    return attempt()


def s3_sections(s3, bucket):
    """`storage` and `database` of a configuration: two buckets, as clients have them."""
    credentials = {"aws": {"access_key": s3.access_key, "secret_access_key": s3.secret_key}}
    section = {"type": "s3", "endpoint": s3.url, "authentication": "none", "credentials": credentials}
    return {"storage": {**section, "bucket": bucket}, "database": {**section, "bucket": f"{bucket}-records"}}


@dataclass(frozen=True)
class Client:
    """A person with the client in `environment` and a home directory."""

    environment: Path
    home: Path

    def configure(self, **sections):
        """Write ~/.studioml/config.yaml."""
        document = {
            "server": {"authentication": "None"},
            "verbose": "error",
            "saveMetricsFrequency": "100ms",
            "saveWorkspaceFrequency": "1m",
            "experimentLifetime": "4h",
            "resources_needed": RESOURCES,
            "sleep_time": 1,
            **sections,
        }
        path = self.home / ".studioml" / "config.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(document))

    def project(self, *programs):
        """A directory with copies of these programs."""
        directory = self.home / f"project-{uuid.uuid4().hex[:6]}"
        directory.mkdir()
        for name in programs:
            (directory / name).write_bytes((PROGRAMS / name).read_bytes())
        return directory

    def submit(self, queue, *words, project):
        """`studio-run` from the project's directory; the experiment's key."""

        def attempt():
            key = f"client-{uuid.uuid4()}"
            self.call("studio-run", "--experiment", key, "--queue", queue, *words, cwd=project)
            return key

        return again_if_lost(attempt)

    def experiment(self, key):
        """What the client's own library knows of the experiment."""
        return json.loads(self.call("python", PROGRAMS / "experiment.py", key).splitlines()[-1])

    def stop(self, key):
        self.call("studio-runs", "stop", key)

    def fetch(self, key, label):
        """An artifact, as the client's own library fetches it: content by relative name."""
        said = self.call("python", PROGRAMS / "fetch.py", key, label)
        directory = Path(json.loads(said.splitlines()[-1]))
        files = [path for path in directory.rglob("*") if path.is_file()]
        return {str(path.relative_to(directory)): path.read_bytes() for path in files}

    def output(self, key):
        return self.fetch(key, "output")["output"].decode()

    def call(self, program, *words, cwd=None):
        """Run a program of the client's environment; what it wrote."""
        done = subprocess.run(
            [self.environment / "bin" / program, *words],
            check=False,
            cwd=cwd or self.home,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if "was never acknowledged" in done.stderr:
            raise LostCountError(done.stderr)
        assert done.returncode == 0, f"{program} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def variables(self):
        return {
            "HOME": str(self.home),
            "PATH": f"{self.environment / 'bin'}:{os.environ['PATH']}",
            "PYTHONWARNINGS": "ignore",
        }


@pytest.fixture
def client(studioml, tmp_path):
    return Client(studioml / "client", tmp_path)


@pytest.fixture
def completion_service(studioml, tmp_path):
    """The last release of the client that can import its own completion service."""
    return Client(studioml / "completion-service", tmp_path)


@pytest.fixture
def sections(s3, bucket, rabbitmq, vhost):
    """The part of a configuration that names the servers."""
    return {**s3_sections(s3, bucket), "cloud": {"queue": {"rmq": rabbitmq.url(vhost)}}}


def new_queue():
    return f"rmq_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def queue():
    return new_queue()


@pytest.fixture
def fan_out(completion_service):
    """Fan that many tasks out, and what comes back, by number."""

    def attempt(count):
        project = completion_service.project("fan_out.py", "task.py")
        words = (new_queue(), project / "task.py", str(count))
        return json.loads(completion_service.call("python", "fan_out.py", *words, cwd=project).splitlines()[-1])

    return lambda count: again_if_lost(lambda: attempt(count))


@pytest.fixture
def elsewhere(cache):
    """The place of a runner on another machine."""
    with installation(cache) as place:
        yield place


@pytest.fixture
def options(rabbitmq, vhost):
    """What that runner is told: of the broker, and of no store."""
    management = ("--amqp-mgt-url", rabbitmq.management_url)
    return ("--cpu-only", "--amqp-url", rabbitmq.url(vhost), *management, "--grace", "2s")


@pytest.fixture
def runner(elsewhere, options):
    with elsewhere.daemon(*options):
        yield elsewhere


@pytest.fixture
def machine(tmp_path, cache):
    """A runner's place that shares the client's home, as on one person's machine."""
    place = Installation(tmp_path / ".studioml", cache)
    place.home.mkdir()
    return place
