"""A person's records and artifacts: in which places, and what `_results` tell when a record does not."""

import json
from dataclasses import replace

import pytest

from studio_runner.client.artifact_files import fetch_artifact, read_document
from studio_runner.client.holdings import JoinedDocuments, opened_holdings
from studio_runner.client.opening import HereOpener, OwnOpener, read_config
from studio_runner.client.results import caught_up
from studio_runner.client.stop import Stopped, stop
from studio_runner.client.stores import stores_of
from studio_runner.client.view import Details, summaries
from studio_runner.config.settings import StorageSettings
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import BrokerError, ConfigError, NotFoundError, StorageUnavailableError
from studio_runner.messages.artifact import Artifact
from studio_runner.reports.documents import DirectoryDocuments
from studio_runner.reports.records import OWN, Record
from studio_runner.storage.files import FileStore


@pytest.fixture
def two(tmp_path):
    return DirectoryDocuments(tmp_path / "first"), DirectoryDocuments(tmp_path / "second")


async def test_of_two_places_the_first_counts_and_gets_what_is_new(two):
    first, second = two
    joined = JoinedDocuments(first, second)
    await second.change("experiments/old", lambda _: b"old")
    await second.change("experiments/both", lambda _: b"stale")
    await first.change("experiments/both", lambda _: b"fresh")

    await joined.change("experiments/old", lambda content: content + b"er")
    await joined.change("experiments/new", lambda content: content or b"new")

    assert sorted(await joined.all("experiments/")) == [("both", b"fresh"), ("new", b"new"), ("old", b"older")]
    assert await joined.read("experiments/both") == b"fresh"
    assert await second.read("experiments/old") == b"older", "it stays where it was"
    assert await first.read("experiments/new") == b"new"
    assert await joined.read("experiments/none") is None
    assert await joined.version("experiments/old") == await second.version("experiments/old")


async def test_records_of_the_configured_directory_and_of_this_machine_are_seen_together(tmp_path):
    team = {"type": "local", "endpoint": str(tmp_path), "bucket": "team"}
    config = StudioConfig(database=team)
    stores = stores_of(config, tmp_path / "store")
    async with opened_holdings(
        StudioConfig(), stores_of(StudioConfig(), tmp_path / "store"), StorageSettings()
    ) as own:
        await own.records.create({"key": "here", "time_added": 1.0})
    async with opened_holdings(config, stores, StorageSettings()) as holdings:
        await holdings.records.create({"key": "there", "time_added": 2.0})
        assert [one.key for one in await summaries(holdings, {}, 3.0)] == ["there", "here"]
    assert (tmp_path / "team" / "experiments" / "there").exists()
    assert not (tmp_path / "store" / "db" / "experiments" / "there").exists()


def test_a_configuration_that_no_runner_would_read_is_refused_without_its_secrets():
    with pytest.raises(ConfigError) as caught:
        read_config({"storage": {"type": "s3", "credentials": ["hunter2"]}})
    assert "storage" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def stored(tmp_path, label, name, content):
    """A record whose artifact is one bare document."""
    path = tmp_path / name
    path.write_bytes(content)
    return {label: {"qualified": f"file://{path}", "mutable": True, "unpack": False}}


async def test_a_document_is_read_from_its_artifact(tmp_path):
    record = Record("k", {"artifacts": stored(tmp_path, "_results", "_results.json", b"{}")})
    assert await read_document(record, "_results", HereOpener()) == b"{}"


async def test_the_metadata_of_every_attempt_is_fetched(tmp_path):
    (tmp_path / "k" / "metadata").mkdir(parents=True)
    for name in ("scrape-host-a-1.json", "scrape-host-a-2.json"):
        (tmp_path / "k" / "metadata" / name).write_text(name)
    artifact = {"qualified": f"file://{tmp_path}/k/_metadata.tar", "mutable": True, "unpack": True}
    record = Record("k", {"artifacts": {"_metadata": artifact}})

    await fetch_artifact(record, "_metadata", tmp_path / "got", HereOpener())

    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == [
        "scrape-host-a-1.json",
        "scrape-host-a-2.json",
    ]


def test_what_is_elsewhere_is_nothing_to_look_at_from_here():
    with pytest.raises(StorageUnavailableError, match="not on this machine"):
        HereOpener().open(Artifact(qualified="s3://host/bucket/key"))


class ResultsElsewhere:
    """Opens the artifacts of an address across the network, which are files here."""

    def __init__(self, directory):
        self._directory = directory

    def open(self, artifact):
        return FileStore(self._directory), artifact.location.key


@pytest.fixture
async def holdings(tmp_path):
    config = StudioConfig()
    async with opened_holdings(config, stores_of(config, tmp_path / "store"), StorageSettings()) as opened:
        yield replace(opened, opener=ResultsElsewhere(tmp_path))


def submitted(**fields):
    artifact = {"qualified": "s3://host/bucket/_results.json", "mutable": True, "unpack": False}
    return {"key": "k", "status": "waiting", "time_added": 100.0, "artifacts": {"_results": artifact}, **fields}


def results(**fields):
    ended = {"reason": "script_failed", "sentence": "It exited with 7.", "exit_code": 7, "attempt": 1}
    times = {"time_started": 110.0, "time_finished": 120.0}
    return json.dumps({"exit_msg": "script_failed: ...", "host": "h", **ended, **times, **fields}).encode()


async def test_results_tell_what_nobody_wrote_into_the_record(holdings, tmp_path):
    await holdings.records.create(submitted())
    record = await holdings.records.read("k")
    assert not (await caught_up(record, holdings)).over

    (tmp_path / "_results.json").write_bytes(results())
    found = await caught_up(record, holdings)

    assert found.over
    assert (found.status, found.reason, found.own["exit_code"]) == ("finished", "script_failed", 7)
    assert (await holdings.records.read("k")).over, "it is remembered"


async def test_results_of_other_runners_tell_how_it_ended_too(holdings, tmp_path):
    await holdings.records.create(submitted())
    (tmp_path / "_results.json").write_bytes(json.dumps({"exit_msg": "ok", "host": "h"}).encode())
    found = await caught_up(await holdings.records.read("k"), holdings)
    assert (found.status, found.reason) == ("finished", "completed")


async def test_results_of_an_earlier_run_under_the_same_key_tell_nothing(holdings, tmp_path):
    await holdings.records.create(submitted(status="running", time_started=200.0))
    (tmp_path / "_results.json").write_bytes(results())
    assert not (await caught_up(await holdings.records.read("k"), holdings)).over


async def test_what_is_no_results_document_tells_nothing(holdings, tmp_path):
    await holdings.records.create(submitted())
    (tmp_path / "_results.json").write_bytes(b"<html>")
    assert not (await caught_up(await holdings.records.read("k"), holdings)).over


class Queue:
    """What becomes of the wish to take a message off it."""

    def __init__(self, answer):
        self._answer = answer

    async def withdraw(self, _queue, _key):
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("answer", [False, BrokerError("RabbitMQ refuses connections"), NotFoundError("no queue")])
async def test_what_cannot_be_withdrawn_is_asked_to_stop(holdings, tmp_path, answer):
    status = {"_status": {"qualified": f"file://{tmp_path}/_status.json", "mutable": True, "unpack": False}}
    await holdings.records.create(submitted(artifacts=status, studio_runner={"queue": "rmq_x"}))

    done = await stop(await holdings.records.read("k"), holdings.records, Queue(answer), HereOpener())

    assert done is Stopped.ASKED
    assert (await holdings.records.read("k")).status == "stopped"
    assert json.loads((tmp_path / "_status.json").read_bytes())["status"] == "stopped"


async def test_a_wish_that_one_place_does_not_take_is_in_the_other(holdings):
    status = {"_status": {"qualified": "s3://host/bucket/_status.json", "mutable": True, "unpack": False}}
    await holdings.records.create(submitted(artifacts=status, studio_runner={"queue": "rmq_x"}))
    record = await holdings.records.read("k")
    assert await stop(record, holdings.records, Queue(NotFoundError("no queue")), HereOpener()) is Stopped.ASKED
    assert (await holdings.records.read("k")).status == "stopped"


def test_attempts_are_listed_with_the_end_of_each():
    entries = [
        {"number": 1, "host": "a", "started": 1.0},
        {"number": 2, "host": "b", "started": 2.0, "ended": 3.0, "reason": "storage_unavailable"},
        {"number": 3, "host": "c", "started": 4.0},
    ]
    rows = Details(Record("k", {OWN: {"attempts": entries}}), []).attempts()
    assert [(row[0], row[1], row[4]) for row in rows] == [
        (1, "a", "its runner died"),
        (2, "b", "storage_unavailable"),
        (3, "c", ""),
    ]


def test_credentials_that_other_clients_leave_in_records_are_not_shown():
    document = {"key": "k", "artifacts": {"x": {"credentials": {"aws": {"secret_access_key": "hunter2"}}}}}
    assert "hunter2" not in json.dumps(Details(Record("k", document), []).document())


async def test_nothing_is_opened_for_what_is_on_this_machine(tmp_path):
    opener = OwnOpener({"storage": "what no runner would read"}, StorageSettings())
    _, key = opener.open(Artifact(qualified=f"file://{tmp_path}/a.tar"))
    assert key == "a.tar"
    await opener.close()
