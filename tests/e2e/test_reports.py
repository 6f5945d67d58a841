"""Reports to the sender of an experiment, opened as the interface says and by nobody's code but the test's."""

import asyncio
import json
import shutil
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest

from servers.proxy import Proxy
from studio_runner.queues.rabbitmq import RabbitBroker, RabbitOptions
from studio_runner.testing import QUEUE, Installation, command_path, installation
from tests import specification

LOSSES = """
import json
print("words")
for number in range(5):
    print(json.dumps({"loss": number}), flush=True)
print("{'not': 'json'}")
"""
GATED = """
import os, time
print('["before"]', flush=True)
open(os.environ["GATE"], "w").close()
while os.path.exists(os.environ["GATE"]):
    time.sleep(0.01)
print('["after"]')
"""
BEGINNING = ["scanning queue", "Started", "start"]
RABBIT = "rmq_reports"
AWS = "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\nregion = us-east-1\n"


@pytest.fixture(scope="session")
def key():
    return specification.new_key()


@dataclass
class Sender:
    """Somebody with a private key, whose public half the runner has."""

    place: Installation
    key: Any
    options: tuple[str, ...] = ()
    queue: str = QUEUE
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self):
        return self.place.home / "keys"

    @property
    def private(self):
        return _private(self.place.home / "reader.pem", self.key)

    def give_key(self, key=None, name="local_te"):
        self.keys.mkdir(mode=0o700, exist_ok=True)
        (self.keys / name).write_bytes(specification.public_pem(key or self.key))

    def daemon(self, *options):
        return self.place.daemon("--response-signatures-dir", str(self.keys), *self.options, *options)

    def start(self, *options):
        return self.place.start("--response-signatures-dir", str(self.keys), *self.options, *options)

    def read(self, *options, key=None):
        """What `studio-runner reports` prints, and what it says besides."""
        path = self.private if key is None else _private(self.place.home / "other.pem", key)
        command = [command_path(), "reports", self.queue, "--key", str(path), *options]
        environment = {**self.place.environment(), **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    def reports(self):
        """What lies on the local response queue, oldest first."""
        messages = self.place.waiting(f"{self.queue}_response")
        ordered = sorted(messages, key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [specification.parse(specification.opened(path.read_bytes(), self.key)) for path in ordered]


def _private(path, key):
    path.touch(0o600)
    path.write_bytes(specification.private_pem(key))
    return path


@pytest.fixture
def sender(place, key):
    made = Sender(place, key)
    made.give_key()
    (place.queue_root / f"{QUEUE}_response").mkdir()
    return made


def told(report):
    if report.HasField("logging"):
        return report.logging.message.value
    if report.progress.HasField("json"):
        return report.progress.json.value
    names = {number: name for name, number in specification.ENUMS["TaskState"].items()}
    return names[report.progress.state]


def of(reports, experiment):
    return [report for report in reports if report.experiment_id.value == experiment]


def by_attempt(reports):
    found = {}
    for report in reports:
        found.setdefault(report.unique_id.value, []).append(told(report))
    return list(found.values())


def test_every_experiment_has_its_sequence(sender):
    good = sender.place.submit({"main.py": LOSSES})
    bad = sender.place.submit({"main.py": "print('[]')\nraise SystemExit(3)"})
    with sender.daemon("--limit-tasks", "2") as daemon:
        assert daemon.wait(120) == 0
    reports = sender.reports()
    losses = [json.dumps({"loss": number}) for number in range(5)]
    assert [told(report) for report in of(reports, good)] == [*BEGINNING, *losses, "stop", "Success"]
    failed = of(reports, bad)
    assert [told(report) for report in failed] == [*BEGINNING, "[]", "stop", "Failed"]
    assert failed[-1].progress.error.code == 3
    assert failed[-1].progress.error.msg.value == sender.place.results(bad).sentence
    times = [report.time.ToNanoseconds() for report in failed]
    assert times == sorted(times)


def test_a_retried_experiment_tells_of_every_attempt(sender, until):
    gate = sender.place.home / "gate"
    experiment = sender.place.submit({"main.py": GATED}, config={"env": {"GATE": str(gate)}})
    with sender.daemon() as daemon:
        until(gate.exists)
        for _ in range(2):  # drain, then give back
            daemon.send_signal(signal.SIGTERM)
            until(lambda: "SIGTERM" in sender.place.log())
        assert daemon.wait(120) == 0
    gate.unlink()
    with sender.daemon("--limit-tasks", "1"):
        until(gate.exists)
        gate.unlink()
        assert sender.place.wait(experiment).ok
    assert by_attempt(sender.reports()) == [
        [*BEGINNING, '["before"]', "stop", "Stopping"],
        [*BEGINNING, '["before"]', '["after"]', "stop", "Success"],
    ]


def test_a_runner_that_is_killed_leaves_an_attempt_without_an_end(sender, until):
    gate = sender.place.home / "gate"
    experiment = sender.place.submit({"main.py": GATED}, config={"env": {"GATE": str(gate)}})
    daemon = sender.start()
    until(lambda: gate.exists() and len(sender.reports()) == 4)
    daemon.kill()
    daemon.wait()
    gate.unlink()
    with sender.daemon("--limit-tasks", "1", "--lease", "5s"):
        until(gate.exists)
        gate.unlink()
        assert sender.place.wait(experiment).ok
    assert by_attempt(sender.reports()) == [
        [*BEGINNING, '["before"]'],
        [*BEGINNING, '["before"]', '["after"]', "stop", "Success"],
    ]


def test_nobody_is_told_without_a_key_or_a_queue(sender, place):
    (sender.keys / "local_te").rename(sender.keys / "rmq_other")
    first = place.submit({"main.py": LOSSES})
    with sender.daemon("--limit-tasks", "2"):
        assert place.wait(first).ok
        assert not place.waiting(f"{QUEUE}_response")
        sender.give_key()
        second = place.submit({"main.py": LOSSES})
        assert place.wait(second).ok
    assert {report.experiment_id.value for report in sender.reports()} == {second}
    for message in place.waiting(f"{QUEUE}_response"):
        message.unlink()
    (place.queue_root / f"{QUEUE}_response").rmdir()
    third = place.submit({"main.py": LOSSES})
    with sender.daemon("--limit-tasks", "1"):
        assert place.wait(third).ok
    assert not (place.queue_root / f"{QUEUE}_response").exists()


def test_a_broken_key_stops_no_experiment_and_sends_nothing(sender, place):
    (sender.keys / "local_te").write_text("-----BEGIN RSA PUBLIC KEY-----\n")
    experiment = place.submit({"main.py": LOSSES})
    with sender.daemon("--limit-tasks", "1") as daemon:
        assert daemon.wait(120) == 0
    assert place.results(experiment).ok
    assert not place.waiting(f"{QUEUE}_response")
    assert f"{sender.keys / 'local_te'} cannot be used" in place.log()


def test_a_directory_of_keys_that_is_not_there_is_told_of_at_the_start(sender, place):
    shutil.rmtree(sender.keys)
    with sender.daemon() as daemon:
        assert daemon.wait(120) == 2
    assert f"The directory of keys {sender.keys} cannot be read" in place.log()


def test_a_message_that_is_rejected_is_not_answered(sender, place, until):
    senders = place.home / "senders"
    senders.mkdir(mode=0o700)
    shutil.copyfile(Path(__file__).parents[1] / "keys" / "sender.pub", senders / QUEUE)
    unsigned = place.submit({"main.py": LOSSES})
    with sender.daemon("--request-signatures-dir", str(senders)):
        until(place.dead_letters)
        (senders / QUEUE).unlink()
        believed = place.submit({"main.py": LOSSES})
        assert place.wait(believed).ok
    assert not of(sender.reports(), unsigned)
    assert told(sender.reports()[-1]) == "Success"
    assert {report.experiment_id.value for report in sender.reports()} == {believed}


def test_more_lines_than_can_be_sent_cost_neither_the_experiment_nor_its_end(sender, place):
    flood = "import json\nfor number in range(50_000): print(json.dumps([number]))"
    experiment = place.submit({"main.py": flood})
    with sender.daemon("--limit-tasks", "1") as daemon:
        assert daemon.wait(120) == 0
    assert place.output(experiment).count("\n") == 50_000
    reports = sender.reports()
    words = [told(report) for report in reports]
    assert words[:3] == BEGINNING
    assert words[-2:] == ["stop", "Success"]
    numbers = [json.loads(word)[0] for word in words if word.startswith("[")]
    assert numbers == sorted(numbers)
    gaps = [int(report.logging.fields["left_out"]) for report in reports if report.logging.severity == 400]
    assert len(numbers) + sum(gaps) == 50_000


def test_people_read_reports(sender, place):
    place.submit({"main.py": "print('[1]')\nraise SystemExit(3)"})
    with sender.daemon("--limit-tasks", "1") as daemon:
        daemon.wait(120)
    code, shown, besides = sender.read()
    assert (code, besides) == (0, "")
    said = [line.split("  ", 2)[2] for line in shown.splitlines()]
    assert said[:4] == ['debug: scanning queue (queue_name="local_test")', "Started", "info: start", "[1]"]
    assert said[4].startswith('info: stop (success="false" error="The script failed')
    assert said[5].startswith("Failed: The script failed with exit code 3")
    assert sender.read() == (0, "", "")


def test_programs_read_reports(sender, place):
    place.submit({"main.py": LOSSES})
    with sender.daemon("--limit-tasks", "1") as daemon:
        daemon.wait(120)
    expected = [report.SerializeToString() for report in sender.reports()]
    _, shown, _ = sender.read("--json")
    assert [specification.parse(line).SerializeToString() for line in shown.splitlines()] == expected


def test_a_queue_for_reports_is_made_on_request(sender, place):
    response = place.queue_root / f"{QUEUE}_response"
    response.rmdir()
    code, _, besides = sender.read()
    assert code == 1
    assert "There is no queue 'local_test_response'" in besides
    assert sender.read("--create") == (0, "", "")
    assert response.is_dir()


def test_somebody_elses_reports_are_left_alone(sender, place):
    place.submit({"main.py": LOSSES})
    with sender.daemon("--limit-tasks", "1") as daemon:
        daemon.wait(120)
    before = [told(report) for report in sender.reports()]
    code, shown, besides = sender.read(key=specification.new_key())
    assert (code, shown) == (0, "")
    assert f"{len(before)} messages cannot be opened with this key" in besides
    assert [told(report) for report in sender.reports()] == before


@dataclass
class Rabbit:
    """A virtual host of RabbitMQ with the response queue as existing clients declare and bind it."""

    node: Any
    vhost: str

    def declare(self):
        response = f"{RABBIT}_response"
        exchange = json.dumps({"type": "topic", "durable": True, "auto_delete": True}).encode()
        self.node.manage("PUT", f"/api/exchanges/{self.vhost}/StudioML.topic", exchange)
        self.node.manage("PUT", f"/api/queues/{self.vhost}/{response}", b'{"durable": false}')
        binding = json.dumps({"routing_key": f"StudioML.{response}"}).encode()
        self.node.manage("POST", f"/api/bindings/{self.vhost}/e/StudioML.topic/q/{response}", binding)

    def publish(self, body):
        async def send():
            async with RabbitBroker(RabbitOptions(self.node.url(self.vhost), self.node.management_url)) as broker:
                await broker.publish(RABBIT, body)

        asyncio.run(send())

    def taken(self):
        """Everything on the response queue, with its properties."""
        wanted = json.dumps({"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto"}).encode()
        answer = self.node.manage("POST", f"/api/queues/{self.vhost}/{RABBIT}_response/get", wanted)
        return json.loads(answer)

    def reports(self, key):
        return [specification.parse(specification.opened(found["payload"].encode(), key)) for found in self.taken()]


@pytest.fixture
def rabbit(rabbitmq, vhost):
    made = Rabbit(rabbitmq, vhost)
    made.declare()
    return made


@contextmanager
def sending(rabbit, cache, key, port=None):
    url = f"amqp://guest:guest@127.0.0.1:{port or rabbit.node.port}/{rabbit.vhost}"
    options = ("--amqp-url", url, "--amqp-mgt-url", rabbit.node.management_url)
    with installation(cache) as place:
        made = Sender(place, key, options, RABBIT, {"AMQP_URL": url, "AMQP_MGT_URL": rabbit.node.management_url})
        made.give_key(name="rmq_rep")
        yield made


def test_reports_over_rabbitmq(rabbit, cache, key):
    with sending(rabbit, cache, key) as sender:
        experiment, body = sender.place.request(sender.place.workspace({"main.py": LOSSES}))
        rabbit.publish(body)
        with sender.daemon("--limit-tasks", "1") as daemon:
            assert daemon.wait(120) == 0
        [message, *_] = rabbit.taken()
        assert message["exchange"] == "StudioML.topic"
        assert message["routing_key"] == f"StudioML.{RABBIT}_response"
        assert message["properties"]["content_type"] == "text/plain"
        reports = rabbit.reports(key)
        losses = [json.dumps({"loss": number}) for number in range(5)]
        assert [told(report) for report in of(reports, experiment)] == [*BEGINNING, *losses, "stop", "Success"]
        _, shown, besides = sender.read("--json")
        assert not besides
        assert [told(specification.parse(line)) for line in shown.splitlines()] == [
            told(found) for found in reports
        ]
        assert not rabbit.taken()


def test_reports_wait_for_a_broken_connection(rabbit, cache, key, until):
    with Proxy(rabbit.node.port) as proxy, sending(rabbit, cache, key, proxy.port) as sender:
        gate = sender.place.home / "gate"
        env = {"env": {"GATE": str(gate)}}
        experiment, body = sender.place.request(sender.place.workspace({"main.py": GATED}), config=env)
        rabbit.publish(body)
        with sender.daemon("--limit-tasks", "1") as daemon:
            until(lambda: gate.exists() and len(rabbit.taken()) == 4)
            proxy.cut()
            gate.unlink()
            until(lambda: "does not take reports now" in sender.place.log())
            proxy.restore()
            assert sender.place.wait(experiment).ok
            assert daemon.wait(120) == 0
        words = [told(report) for report in rabbit.reports(key)]
        assert words == [*BEGINNING, '["before"]', '["after"]', "stop", "Success"]


def test_a_response_queue_that_is_bound_to_nothing_gets_its_reports(rabbit, cache, key):
    response = f"{RABBIT}_response"
    rabbit.node.manage("DELETE", f"/api/bindings/{rabbit.vhost}/e/StudioML.topic/q/{response}/StudioML.{response}")
    with sending(rabbit, cache, key) as sender:
        key_of_experiment, body = sender.place.request(sender.place.workspace({"main.py": "print('[]')"}))
        rabbit.publish(body)
        with sender.daemon("--limit-tasks", "1") as daemon:
            assert daemon.wait(120) == 0
        words = [told(report) for report in of(rabbit.reports(key), key_of_experiment)]
        assert words == [*BEGINNING, "[]", "stop", "Success"]


def test_the_program_of_the_documentation(sender, place, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "read-reports.md").read_text()
    program = {}
    exec(page.split("```python\n")[1].split("```")[0], program)  # noqa: S102 - our own
    good, bad = place.submit({"main.py": LOSSES}), place.submit({"main.py": "raise SystemExit(3)"})
    with sender.daemon("--limit-tasks", "2"):
        place.wait(good)
        place.wait(bad)
        monkeypatch.setenv("STUDIOML_HOME", str(place.home))
        ends = asyncio.run(program["ends"](QUEUE, sender.private, {good, bad}))
    assert {key: state.name for key, state in ends.items()} == {good: "SUCCESS", bad: "FAILED"}


def test_a_queue_that_is_full_gets_its_reports_as_it_is_read(rabbit, cache, key, until):
    response = f"{RABBIT}_response"
    rabbit.node.manage("DELETE", f"/api/queues/{rabbit.vhost}/{response}")
    limits = {"durable": True, "arguments": {"x-max-length": 3, "x-overflow": "reject-publish"}}
    rabbit.node.manage("PUT", f"/api/queues/{rabbit.vhost}/{response}", json.dumps(limits).encode())
    with sending(rabbit, cache, key) as sender:
        experiment, body = sender.place.request(sender.place.workspace({"main.py": LOSSES}))
        rabbit.publish(body)
        with sender.daemon():
            assert sender.place.wait(experiment).ok
            until(lambda: "the queue does not take the message" in sender.place.log())
            words = []

            def is_over():
                words.extend(told(specification.parse(line)) for line in sender.read("--json")[1].splitlines())
                return words[-1:] == ["Success"]

            until(is_over)
    losses = [json.dumps({"loss": number}) for number in range(5)]
    assert words == [*BEGINNING, *losses, "stop", "Success"]


@pytest.fixture(params=["", ".fifo"], ids=["standard", "FIFO"])
def on_sqs(request, sqs, cache, key):
    """A sender whose request queue is one of SQS, and the client of somebody else there."""
    urlopen(Request(f"{sqs.url}/moto-api/reset", method="POST")).close()
    client = boto3.client(
        "sqs", endpoint_url=sqs.url, region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t"
    )
    with installation(cache) as place:
        certs = place.home / "certs"
        certs.mkdir()
        (certs / "credentials").write_text(AWS)
        options = ("--sqs-certs", str(certs), "--sqs-endpoint", sqs.url)
        environment = {"SQS_CERTS": str(certs), "STUDIO_RUNNER_SQS_ENDPOINT": sqs.url}
        made = Sender(place, key, options, f"sqs_reports{request.param}", environment)
        made.give_key(name="sqs_rep")
        client.create_queue(QueueName=made.queue, Attributes={"FifoQueue": "true"} if request.param else {})
        yield made, client
    client.close()


def test_reports_over_sqs(on_sqs):
    sender, client = on_sqs
    fifo = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if sender.queue.endswith(".fifo") else {}
    assert sender.read("--create") == (0, "", "")
    experiment, body = sender.place.request(sender.place.workspace({"main.py": LOSSES}))
    url = client.get_queue_url(QueueName=sender.queue)["QueueUrl"]
    client.send_message(QueueUrl=url, MessageBody=body.decode(), **fifo)
    with sender.daemon("--limit-tasks", "1") as daemon:
        assert daemon.wait(60) == 0
    code, shown, besides = sender.read(key=specification.new_key())
    assert (code, shown) == ((2, "") if fifo else (0, ""))
    assert "with this key" in besides
    _, shown, besides = sender.read("--json")
    assert not besides
    reports = [specification.parse(line) for line in shown.splitlines()]
    losses = [json.dumps({"loss": number}) for number in range(5)]
    wanted = [*BEGINNING, *losses, "stop", "Success"]
    words = [told(report) for report in of(reports, experiment)]
    assert (words if fifo else sorted(words)) == (wanted if fifo else sorted(wanted))
    assert sender.read() == (0, "", "")


def test_many_experiments_at_once_have_their_order_each(rabbit, cache, key):
    script = "for number in range(40): print([number], flush=True)"
    with sending(rabbit, cache, key) as sender:
        experiments = []
        for _ in range(8):
            experiment, body = sender.place.request(sender.place.workspace({"main.py": script}))
            rabbit.publish(body)
            experiments.append(experiment)
        with sender.daemon("--limit-tasks", "8") as daemon:
            assert daemon.wait(240) == 0
        reports = rabbit.reports(key)
        for experiment in experiments:
            words = [told(report) for report in of(reports, experiment)]
            assert words == [*BEGINNING, *(f"[{number}]" for number in range(40)), "stop", "Success"]
