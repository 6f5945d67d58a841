"""The installed command against RabbitMQ and S3, as somebody uses it who has a StudioML configuration and runners on
other machines."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from servers.rabbitmq import RabbitMQ
from servers.seaweedfs import SeaweedS3

COMMAND = Path(sys.executable).parent / "studio-runner"
PATIENCE = 120
QUEUE = "rmq_front_end"

GATED = """
import sys, time
from pathlib import Path
print("begun", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.1)
Path("../modeldir/model.bin").write_text("weights")
print("done")
"""

ENDLESS = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    Path("../modeldir/saved").write_text("half")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("running", flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class User:
    """Somebody's home and project directory, and the command in the project."""

    home: Path
    project: Path
    management: str

    @property
    def environ(self):
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
        here = {"HOME": str(self.home), "PATH": os.environ["PATH"], "AMQP_MGT_URL": self.management}
        return {**kept, **here, "STUDIO_RUNNER_HTTP_ADDRESS": ""}

    def write(self, **files):
        for name, text in files.items():
            (self.project / f"{name}.py").write_text(text)

    def configure(self, **sections):
        """JSON is YAML."""
        place = self.home / ".studioml"
        place.mkdir(exist_ok=True)
        (place / "config.yaml").write_text(json.dumps(sections))

    def call(self, *arguments, **environ):
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            check=False, capture_output=True, text=True, timeout=PATIENCE, cwd=self.project, env=self.environ | environ,
        )  # fmt: skip

    def ok(self, *arguments, **environ):
        done = self.call(*arguments, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.ok(*arguments, "--json"))

    def begin(self, *arguments):
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.project, env=self.environ,
        )  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A broker and two buckets."""

    rabbitmq: RabbitMQ
    vhost: str
    s3: SeaweedS3
    bucket: str
    database: str

    @property
    def url(self):
        return self.rabbitmq.url(self.vhost)

    def section(self, bucket, **keys):
        aws = {"access_key": self.s3.access_key, "secret_access_key": self.s3.secret_key, **keys}
        return {"type": "s3", "endpoint": self.s3.url, "bucket": bucket, "credentials": {"aws": aws}}

    def config(self, **changes):
        whole = {
            "storage": self.section(self.bucket),
            "database": self.section(self.database),
            "cloud": {"queue": {"rmq": self.url}},
            "queue": QUEUE,
            "saveWorkspaceFrequency": "1s",
        } | changes
        return {name: value for name, value in whole.items() if value is not None}


@pytest.fixture
def site(rabbitmq, vhost, s3, bucket):
    database = f"{bucket}-records"
    s3.create_bucket(database)
    return Site(rabbitmq, vhost, s3, bucket, database)


@pytest.fixture
def user(tmp_path, site):
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    somebody = User(tmp_path / "home", tmp_path / "project", site.rabbitmq.management_url)
    somebody.configure(**site.config())
    return somebody


def until(true):
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


def other_machine():
    """What makes a command believe that it is on another machine."""
    tried = subprocess.run(["unshare", "--uts", "hostname", "elsewhere"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip("NO OTHER MACHINE: this user may not make a host name of its own (unshare --uts)")
    return ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"]


@contextmanager
def runner_elsewhere(tmp_path, site):
    """A runner that shares nothing with the user but broker and store."""
    home = tmp_path / "elsewhere"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "HOME": str(home), "AMQP_URL": site.url}
    command = [*other_machine(), str(COMMAND), "start", "--http-address", "", "--grace", "5s"]
    command += ["--amqp-mgt-url", site.rabbitmq.management_url]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        yield home / "log"
    finally:
        for number in (signal.SIGTERM, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.2)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def following(user, key):
    with user.begin("logs", "-f", key) as process:
        try:
            yield process
        finally:
            process.kill()


def until_line(process, line):
    """What is printed up to this line."""
    shown = ""
    while not shown.endswith(line):
        shown += (read := process.stdout.readline())
        assert read, process.stderr.read()
    return shown


def test_an_unchanged_directory_is_stored_once_and_waits_on_its_queue(user):
    user.write(train="print('hello')")
    first = user.call("submit", "train.py")
    assert first.returncode == 0, first.stderr
    again = user.call("submit", "train.py")
    assert "storing" in first.stderr
    assert "storing" not in again.stderr
    keys = [first.stdout.strip(), again.stdout.strip()]
    assert [(one["key"], one["status"], one["queue"]) for one in user.json("list")] == [
        (key, "waiting", QUEUE) for key in reversed(keys)
    ]
    (row,) = [row for row in user.json("queues") if row["name"] == QUEUE]
    assert (row["waiting"], row["dead"]) == (2, 0)
    assert not (user.home / ".studioml" / "store").exists()
    assert not (user.home / ".studioml" / "queue").exists()


def test_what_waits_is_withdrawn(user):
    user.write(train="print('hello')")
    key = user.ok("submit", "train.py").strip()
    assert user.json("stop", key)["result"] == "withdrawn"
    (row,) = [row for row in user.json("queues") if row["name"] == QUEUE]
    assert row["waiting"] == 0
    assert user.json("show", key)["status"] == "stopped"


def test_no_secret_is_in_what_people_see(user, site):
    user.write(train="print('hello')")
    user.ok("submit", "train.py")
    password = re.search(r":([^:@/]+)@", site.url)[1]
    for command in (["list"], ["show", "last"], ["show", "last", "--json"], ["queues"], ["doctor"]):
        done = user.call(*command, PIP_NO_INDEX="1")
        for secret in (site.s3.secret_key, f":{password}@"):
            assert secret not in done.stdout + done.stderr, command


def test_doctor_looks_at_broker_and_buckets(user):
    found = {}
    for one in json.loads(user.call("doctor", "--json", PIP_NO_INDEX="1").stdout):
        found.setdefault(one["subject"], []).append(one)
    for subject in ("RabbitMQ", "RabbitMQ queues", "RabbitMQ leases", "storage", "database"):
        assert {one["state"] for one in found[subject]} == {"ok"}, found[subject]
    assert any("conditional writes work" in one["sentence"] for one in found["storage"])


def test_wrong_credentials_are_told_apart(user, site):
    user.write(train="print('hello')")
    user.configure(**site.config(storage=site.section(site.bucket, secret_access_key="hunter2")))
    storage = user.call("submit", "train.py")
    user.configure(**site.config(cloud={"queue": {"rmq": site.url.replace("guest:guest", "guest:hunter2")}}))
    broker = user.call("submit", "train.py")
    user.configure(**site.config())
    wrong = site.rabbitmq.management_url.replace("guest:guest", "guest:hunter2")
    management = user.call("queues", AMQP_MGT_URL=wrong)

    assert site.s3.endpoint in storage.stderr
    assert "user guest" in broker.stderr
    assert "queues" in broker.stderr
    assert "management" in management.stderr
    for done in (storage, broker, management):
        assert done.returncode in (1, 3)
        assert "hunter2" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_bucket_and_a_missing_broker_are_named(user, site):
    user.write(train="print('hello')")
    user.configure(**site.config(storage=site.section("no-such-bucket")))
    bucket = user.call("submit", "train.py")
    user.configure(**site.config(cloud=None))
    broker = user.call("submit", "train.py")

    assert bucket.returncode != 0
    assert "no-such-bucket" in bucket.stderr
    assert broker.returncode == 2
    assert "--amqp-url" in broker.stderr


def test_the_output_is_followed_from_afar_and_results_come_back(user, tmp_path, site):
    user.write(train=GATED)
    gate = tmp_path / "gate"
    with runner_elsewhere(tmp_path, site) as log:
        key = user.ok("submit", "train.py", gate).strip()
        with following(user, key) as process:
            shown = until_line(process, "begun\n")
            until(lambda: user.json("show", key)["status"] == "running")  # output comes while it runs
            gate.touch()
            rest, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said + log.read_text()
    whole = shown + rest
    assert [line for line in whole.splitlines() if not line.startswith("[studio-runner]")] == ["begun", "done"]
    assert user.ok("logs", key) == whole
    (one,) = user.json("list")
    assert (one["status"], one["reason"]) == ("finished", "completed")
    user.ok("fetch", key, "modeldir", "got")
    assert (user.project / "got" / "model.bin").read_text() == "weights"
    user.ok("fetch", key, "_metadata", "metadata")
    assert list((user.project / "metadata").glob("scrape-host-*.json"))
    assert user.json("show", key)["studio_runner"]["host"] == "elsewhere"


def test_an_experiment_elsewhere_is_stopped_and_run_again(user, tmp_path, site):
    user.write(train=ENDLESS)
    with runner_elsewhere(tmp_path, site):
        key = user.ok("submit", "train.py").strip()
        until(lambda: user.json("show", key)["status"] == "running" and "running" in user.ok("logs", key))
        assert user.json("stop", "--wait", key)["result"] == "asked"
        document = user.json("show", key)
        assert (document["status"], document["studio_runner"]["reason"]) == ("stopped", "stopped")
        user.ok("fetch", key, "modeldir", "got")
        assert (user.project / "got" / "saved").read_text() == "half"
        again = user.ok("rerun", key).strip()
        until(lambda: user.json("show", again)["status"] == "running")
        assert user.json("stop", "--wait", again)["result"] == "asked"


def test_without_a_database_the_results_tell_how_it_ended(user, tmp_path, site):
    user.write(train="print('hello')\nraise SystemExit(7)")
    user.configure(**site.config(database=None))
    with runner_elsewhere(tmp_path, site):
        done = user.call("submit", "--follow", "train.py")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("hello\n") or "\nhello\n" in done.stdout
    document = user.json("show", "last")
    assert (document["status"], document["studio_runner"]["exit_code"]) == ("finished", 7)
    assert [(one["status"], one["reason"]) for one in user.json("list")] == [("finished", "script_failed")]


def test_run_stays_on_this_machine(user):
    user.write(train="print('hello')")
    assert user.ok("run", "train.py").endswith("hello\n")
    assert user.json("show", "last")["stored"]["output"]["address"].startswith("file://")


def test_sqs_takes_what_is_submitted_and_gives_it_back(user, site, sqs):
    user.write(train="print('hello')")
    aws = {"access_key": "testing", "secret_access_key": "hunter2", "region": "us-east-1"}
    user.configure(**site.config(cloud={"queue": {"sqs": {"credentials": {"aws": aws}}}}, queue="sqs_front_end"))
    at = ("--sqs-endpoint", sqs.url)
    key = user.ok("submit", *at, "train.py").strip()
    rows = {row["name"]: row for row in json.loads(user.ok("queues", *at, "--json"))}
    assert rows["sqs_front_end"]["waiting"] == 1
    assert json.loads(user.ok("stop", key, *at, "--json"))["result"] == "withdrawn"
    rows = {row["name"]: row for row in json.loads(user.ok("queues", *at, "--json"))}
    assert rows["sqs_front_end"]["waiting"] == 0
