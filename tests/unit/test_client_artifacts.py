"""The artifacts of a request."""

from pathlib import Path

import pytest

from studio_runner.client import artifacts
from studio_runner.client.artifacts import Capture, Reuse, parse_capture, parse_reuse
from studio_runner.client.stores import stores_here, stores_of
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import ConfigError, UsageError

STORES = stores_of(StudioConfig(), Path("/store"))


@pytest.mark.parametrize(
    ("text", "label", "path", "address"),
    [
        ("/data/set:train", "train", Path("/data/set"), None),
        ("/data/set", "set", Path("/data/set"), None),
        ("/a:b/c:d", "d", Path("/a:b/c"), None),
        ("s3://host:9000/b/k.tar:data", "data", None, "s3://host:9000/b/k.tar"),
        ("https://host/x.bin:weights", "weights", None, "https://host/x.bin"),
        ("https://host/x.bin", "x.bin", None, "https://host/x.bin"),
        ("file:///x/y:z", "z", None, "file:///x/y"),
    ],
)
def test_what_is_captured(text, label, path, address):
    assert parse_capture(text) == Capture(label, path, address)


def test_the_home_directory_may_be_a_tilde():
    assert parse_capture("~/data:d").path == Path.home() / "data"


@pytest.mark.parametrize("text", ["/data:", "/data:a/b", "/data:..", "/data:" + "x" * 300])
def test_a_label_that_is_no_directory_name_is_refused(text):
    with pytest.raises(UsageError, match="label"):
        parse_capture(text)


def test_what_is_reused():
    assert parse_reuse("123_abc/modeldir:start") == Reuse("123_abc", "modeldir", "start")
    assert parse_reuse("last/modeldir") == Reuse("last", "modeldir", "modeldir")


@pytest.mark.parametrize("text", ["modeldir", "/modeldir:x", "key/modeldir:"])
def test_a_reuse_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError):
        parse_reuse(text)


def test_a_reused_artifact_keeps_its_address_and_can_only_be_read():
    known = {"modeldir": artifacts.mutable(STORES, "k", "modeldir")}
    found = artifacts.reused(Reuse("k", "modeldir", "start"), known)
    assert found["qualified"] == "file:///store/experiments/k/modeldir.tar"
    assert found["mutable"] is False


def test_a_reuse_of_an_unknown_label_names_those_there_are():
    with pytest.raises(UsageError, match="no artifact 'x'") as refusal:
        artifacts.reused(Reuse("k", "x", "y"), {"modeldir": {}, "tb": {}})
    assert "modeldir, tb" in refusal.value.hint


def test_readdressed_moves_what_changes_and_leaves_the_rest():
    old = {"workspace": artifacts.blob(STORES, "0" * 64), "tb": artifacts.mutable(STORES, "old", "tb")}
    new = artifacts.readdressed(old, STORES, "new")
    assert new["workspace"] == old["workspace"]
    assert new["tb"]["qualified"] == "file:///store/experiments/new/tb.tar"


@pytest.mark.parametrize("labels", [["a", "a"], ["workspace"]])
def test_labels_that_clash_are_refused(labels):
    with pytest.raises(UsageError, match=labels[0]):
        artifacts.no_duplicates(labels)


def test_without_configuration_everything_is_under_the_store():
    stores = stores_of(StudioConfig(), Path("/home/u/.studioml/store"))
    assert stores.address("blobstore/x.tar") == "file:///home/u/.studioml/store/blobstore/x.tar"
    assert stores.own == Path("/home/u/.studioml/store/db")
    assert stores.database == {"type": "local", "endpoint": "/home/u/.studioml/store", "bucket": "db"}


def test_configured_places_are_used_for_artifacts_and_records():
    storage = {"type": "local", "endpoint": "/srv/studio", "bucket": "team"}
    database = {"type": "s3", "endpoint": "x", "bucket": "meta"}
    stores = stores_of(StudioConfig(storage=storage, database=database), Path("/s"))
    assert stores.address("k") == "file:///srv/studio/team/k"
    assert (stores.database, stores.own) == (database, Path("/s/db"))


@pytest.mark.parametrize(
    ("storage", "address", "bucket"),
    [
        ({"type": "s3", "endpoint": "http://minio.local:9000", "bucket": "b"}, "s3://minio.local:9000/b/k", "b"),
        ({"type": "S3", "endpoint": "minio.local:9000", "bucket": "b"}, "s3://minio.local:9000/b/k", "b"),
        ({"type": "s3", "endpoint": "https://s3.eu-west-1.amazonaws.com/", "bucket": "b"},
         "s3://s3.eu-west-1.amazonaws.com/b/k", "b"),
        ({"type": "s3", "bucket": "b"}, "s3://s3.amazonaws.com/b/k", "b"),
        ({"type": "gs", "bucket": "b"}, "gs://b/k", "b"),
        ({"type": "gcloud", "bucket": "b"}, "gs://b/k", "b"),
    ],
)  # fmt: skip
def test_artifacts_are_where_existing_clients_have_them(storage, address, bucket):
    stores = stores_of(StudioConfig(storage=storage), Path("/s"))
    assert (stores.address("k"), stores.bucket) == (address, bucket)
    assert artifacts.blob(stores, "0" * 64)["bucket"] == bucket


def test_what_runs_here_stays_here():
    remote = {"type": "s3", "endpoint": "http://x", "bucket": "b"}
    stores = stores_here(StudioConfig(storage=remote, database=remote), Path("/s"))
    assert stores.address("k") == "file:///s/k"
    assert stores.database == {"type": "local", "endpoint": "/s", "bucket": "db"}
    local = {"type": "local", "endpoint": "/srv", "bucket": "team"}
    assert (
        stores_here(StudioConfig(storage=local, database=remote), Path("/s")).address("k") == "file:///srv/team/k"
    )


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ({"type": "http", "endpoint": "x"}, r"/c\.yaml: storage\.type is 'http', accepted is s3, gs or local"),
        ({"endpoint": "x"}, r"storage\.type is 'missing'"),
        ({"type": "s3", "endpoint": "x"}, r"/c\.yaml: storage\.bucket is missing"),
    ],
)
def test_a_store_that_cannot_be_meant_is_refused_with_its_key(storage, said):
    with pytest.raises(ConfigError, match=said):
        stores_of(StudioConfig(path=Path("/c.yaml"), storage=storage), Path("/s"))
