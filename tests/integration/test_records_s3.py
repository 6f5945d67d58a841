"""Experiment records in a sender's bucket, next to a client that reads and writes them as studioml 0.0.49 does."""

import asyncio
import json
import threading
import time

import boto3
import pytest
from botocore.config import Config as BotoConfig

from servers.proxy import Proxy
from studio_runner.config.settings import ReportSettings, StorageSettings
from studio_runner.errors import Reason
from studio_runner.messages.request import Config
from studio_runner.reports import sender, writer
from studio_runner.reports.base import Checkpointed, Ended, StageEntered, Started, Subject
from studio_runner.reports.opening import opened_reporters
from studio_runner.reports.records import Records
from studio_runner.runner.databases import databases
from studio_runner.storage.registry import Stores

NOBODY = ReportSettings("", "", ())


class ExistingClient:
    """What the client's provider does with its bucket: the whole record, read and put back without a condition."""

    def __init__(self, s3, bucket):
        self.server, self.bucket = s3, bucket
        self.s3 = boto3.client(
            "s3",
            endpoint_url=s3.url,
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
            region_name="us-east-1",
            config=BotoConfig(signature_version="s3v4"),
        )

    def config(self, endpoint=None, bucket=None, secret=None):
        """What its messages say of the database."""
        keys = {"access_key": self.server.access_key, "secret_access_key": secret or self.server.secret_key}
        place = {"endpoint": endpoint or self.server.url, "bucket": bucket or self.bucket}
        return Config.model_validate({"database": {"type": "s3", **place, "credentials": {"aws": keys}}})

    def get(self, key):
        """As `_get`: only what a listing shows, and that as UTF-8 JSON."""
        listed = self.s3.list_objects(Bucket=self.bucket, Prefix=f"experiments/{key}", Delimiter="/")
        if not any(one["Key"] == f"experiments/{key}" for one in listed.get("Contents", ())):
            return None
        return json.loads(self.s3.get_object(Bucket=self.bucket, Key=f"experiments/{key}")["Body"].read().decode())

    def set(self, key, record):
        self.s3.put_object(Bucket=self.bucket, Key=f"experiments/{key}", Body=json.dumps(record))

    def add_experiment(self, key):
        record = {
            "key": key,
            "args": ["10", "'a b'"],
            "filename": "train.py",
            "pythonenv": ["six==1.16.0"],
            "project": "digits",
            "pythonver": "3.8",
            "resources_needed": {"cpus": 1},
            "status": "waiting",
            "time_added": time.time(),
            "time_started": None,
            "time_last_checkpoint": time.time(),
            "time_finished": None,
            "info": {},
            "git": None,
            "metric": None,
            "max_duration": "20m",
            "owner": "guest",
            "from_compl_service": False,
            "artifacts": {
                "modeldir": {
                    "mutable": True,
                    "key": f"experiments/{key}/modeldir.tar",
                    "credentials": {"aws": {"access_key": "k", "secret_access_key": "s"}},
                }
            },
        }
        self.set(key, record)
        return record

    def stop_experiment(self, key):
        self.set(key, {**self.get(key), "status": "stopped"})


@pytest.fixture
def client(s3, bucket):
    return ExistingClient(s3, bucket)


def subject(experiment, config, number=1, runner="h-1"):
    return Subject(
        key=experiment["key"],
        experiment=experiment,
        queue="rmq_q",
        number=number,
        host="h",
        directory=None,
        runner=runner,
        config=config,
    )


def ended(about, reason=Reason.COMPLETED, started=None):
    now = time.time()
    return Ended(about, now, reason, "It ended.", 0, None, True, 1, 1.0, started or now - 1)


@pytest.fixture
async def known(tmp_path):
    async with Stores(StorageSettings(patience=2.0)) as stores:
        yield databases(tmp_path / "db", stores)


async def until(true):
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(true):
            await asyncio.sleep(0.02)


async def test_a_client_sees_its_experiment_wait_run_and_finish(client, known, tmp_path):
    added = client.add_experiment("k1")
    about = subject(added, client.config())
    async with opened_reporters(NOBODY, known) as reporters:

        async def report(event):
            for reporter in reporters:
                await reporter.report(event)

        await report(Started(about, time.time()))
        await report(StageEntered(about, time.time(), "run"))
        await until(lambda: client.get("k1")["status"] == "running")
        running = client.get("k1")
        assert isinstance(running["time_started"], float)
        assert running["time_finished"] is None
        checkpoint = time.time()
        await report(Checkpointed(about, checkpoint))
        await until(lambda: client.get("k1")["time_last_checkpoint"] == checkpoint)
        await report(ended(about))
    finished = client.get("k1")
    assert finished["status"] == "finished"
    assert running["time_started"] < finished["time_finished"]
    untouched = added.keys() - {"status", "time_started", "time_last_checkpoint", "time_finished"}
    assert {name: finished[name] for name in untouched} == {name: added[name] for name in untouched}
    own = await Records.in_directory(tmp_path / "db").read("k1")
    assert (own.status, own.reason) == ("finished", "completed")
    assert "secret_access_key" not in json.dumps(own.document)


async def test_a_client_stops_its_experiment(client, known):
    about = subject(client.add_experiment("k1"), client.config())
    requested = known.stop_request(about)
    async with opened_reporters(NOBODY, known) as reporters:
        for reporter in reporters:
            await reporter.report(Started(about, time.time()))
        await until(lambda: client.get("k1")["status"] == "running")
        assert not await requested()
        client.stop_experiment("k1")
        assert await requested()
        for event in (Checkpointed(about, time.time()), ended(about, Reason.STOPPED)):
            for reporter in reporters:
                await reporter.report(event)
    record = client.get("k1")
    assert record["status"] == "stopped"
    assert record["time_finished"]
    assert record["studio_runner"]["attempts"][-1]["reason"] == "stopped"


async def test_what_clients_and_runners_write_at_the_same_time_is_all_there_in_the_end(client, known):
    """The client overwrites what it did not see; the runner brings it back."""
    added = client.add_experiment("k1")
    about = subject(added, client.config())
    over = threading.Event()

    def meddle():
        number = 0
        while not over.is_set():
            client.set("k1", {**client.get("k1"), "info": {"logtail": number}})
            number += 1
        return number

    meddling = asyncio.create_task(asyncio.to_thread(meddle))
    try:
        async with sender.SenderRecorder(known) as reporter:
            await reporter.report(Started(about, 10.0 + added["time_added"]))
            for number in range(10):
                await reporter.report(Checkpointed(about, 20.0 + number))
                await asyncio.sleep(0.03)
            over.set()
            assert await meddling > 0
            await reporter.report(ended(about))
    finally:
        over.set()
    record = client.get("k1")
    assert record["status"] == "finished"
    assert (record["time_started"], record["time_last_checkpoint"]) == (10.0 + added["time_added"], 29.0)
    assert record["info"].keys() == {"logtail"}


async def test_two_runners_of_one_experiment_leave_one_history(client, known, monkeypatch):
    monkeypatch.setattr(writer, "GATHER", 0.0)
    config, added = client.config(), client.add_experiment("k1")
    slow, successor = subject(added, config, 1, "h-1"), subject(added, config, 2, "h-2")
    async with sender.SenderRecorder(known) as one, sender.SenderRecorder(known) as other:
        first, second = time.time(), time.time() + 1
        await one.report(Started(slow, first))
        await until(lambda: client.get("k1")["status"] == "running")
        await other.report(Started(successor, second))
        await until(lambda: client.get("k1")["studio_runner"]["attempt"] == 2)
        await asyncio.gather(
            one.report(ended(slow, Reason.LEASE_LOST, first)), other.report(ended(successor, started=second))
        )
    record = client.get("k1")
    assert record["status"] == "finished"
    history = [(entry["number"], entry["runner"], entry["reason"]) for entry in record["studio_runner"]["attempts"]]
    assert history == [(1, "h-1", "lease_lost"), (2, "h-2", "completed")]


async def test_an_outage_of_the_database_delays_records_and_nothing_else(client, known, monkeypatch, caplog):
    monkeypatch.setattr(sender, "LONGEST_PAUSE", 0.5)
    added = client.add_experiment("k1")
    with Proxy(client.server.port) as proxy:
        about = subject(added, client.config(f"http://127.0.0.1:{proxy.port}"))
        async with sender.SenderRecorder(known) as reporter:
            proxy.cut()
            async with asyncio.timeout(15):
                for event in (Started(about, time.time()), Checkpointed(about, time.time())):
                    await reporter.report(event)
            last = asyncio.create_task(reporter.report(ended(about)))  # waits, though not for ever
            await until(lambda: "cannot be written" in caplog.text)
            assert client.get("k1")["status"] == "waiting"
            proxy.restore()
            await until(lambda: client.get("k1")["status"] == "finished")
            await last
    assert caplog.text.count("cannot be written") == 1
    assert f"127.0.0.1:{proxy.port}/{client.bucket}" in caplog.text
    assert client.server.secret_key not in caplog.text


@pytest.mark.parametrize("wrong", [{"secret": "hunter2"}, {"bucket": "absent"}], ids=["secret", "bucket"])
async def test_a_database_that_refuses_is_named_without_its_secret(wrong, client, known, monkeypatch, caplog):
    monkeypatch.setattr(sender, "CLOSING", 0.3)
    added = client.add_experiment("k1")
    about = subject(added, client.config(**wrong))
    requested = known.stop_request(about)
    async with sender.SenderRecorder(known) as reporter:
        await reporter.report(Started(about, time.time()))
        await until(lambda: "cannot be written" in caplog.text)
        assert not await requested()
        await reporter.report(ended(about))
    assert client.server.endpoint in caplog.text
    assert "hunter2" not in caplog.text
    assert client.server.secret_key not in caplog.text


async def test_a_record_that_nobody_made_is_made(client, known):
    experiment = {"key": "k1", "time_added": time.time(), "filename": "a.py", "owner": "ann"}
    async with sender.SenderRecorder(known) as reporter:
        about = subject(experiment, client.config())
        await reporter.report(Started(about, time.time()))
        await reporter.report(ended(about))
    record = client.get("k1")
    assert (record["status"], record["filename"], record["pythonenv"]) == ("finished", "a.py", [])


async def test_a_store_that_cannot_have_the_record_beside_the_artifacts_is_told_apart(client, known, caplog):
    """SeaweedFS: a name is an object or the beginning of others, not both."""
    client.s3.put_object(Bucket=client.bucket, Key="experiments/k1/output.tar", Body=b"x")
    about = subject({"key": "k1", "args": []}, client.config())
    async with opened_reporters(NOBODY, known) as reporters:
        for event in (Started(about, time.time()), ended(about)):
            for reporter in reporters:
                await reporter.report(event)
    assert "keep the records (database) in another bucket than the artifacts (storage)" in caplog.text
    assert "were not brought up to date" not in caplog.text
