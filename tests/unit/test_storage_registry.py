"""Which store an address belongs to. Nothing here connects to anywhere."""

import pytest

from studio_runner.config.reach import Reach
from studio_runner.config.settings import StorageSettings
from studio_runner.errors import ArtifactInvalidError
from studio_runner.messages.artifact import AwsCredentials, Credentials, Location
from studio_runner.storage.access import NOBODY, Access
from studio_runner.storage.registry import Stores


def keys(name):
    return Access(Credentials(aws=AwsCredentials(access_key=name, secret_access_key="secret")))


def opened(address, access=NOBODY, **settings):
    return Stores(StorageSettings(**settings)).open(Location.parse(address), access)


def test_one_store_for_one_bucket_and_one_pair_of_keys():
    stores = Stores()
    first, key = stores.open(Location.parse("s3://minio:9000/bucket/a"), keys("A"))
    assert key == "a"
    assert stores.open(Location.parse("s3://MINIO:9000/bucket/b/c"), keys("A")) == (first, "b/c")
    for address, access in [
        ("s3://minio:9000/other/a", keys("A")),
        ("s3://minio:9001/bucket/a", keys("A")),
        ("s3://minio:9000/bucket/a", keys("B")),
        ("s3://minio:9000/bucket/a", NOBODY),
    ]:
        assert stores.open(Location.parse(address), access)[0] is not first


def test_stores_are_not_collected_without_end():
    stores = Stores()
    first, _ = stores.open(Location.parse("s3://minio:9000/first/a"))
    for number in range(1000):
        stores.open(Location.parse(f"s3://minio:9000/bucket-{number}/a"))
        assert stores.open(Location.parse("s3://minio:9000/first/a"))[0] is first
    assert len(stores._opened) <= 256


@pytest.mark.parametrize(
    ("address", "endpoint", "settings", "shown"),
    [
        ("s3://minio:9000/b/k", "", {}, "http://minio:9000"),
        ("s3://minio:9000/b/k", "", {"scheme": "https"}, "https://minio:9000"),
        ("s3://minio:9000/b/k", "https://minio:9000", {}, "https://minio:9000"),
        ("s3://minio:443/b/k", "", {}, "https://minio:443"),
        ("s3://s3.amazonaws.com/b/k", "", {}, "https://s3.us-east-1.amazonaws.com"),
        ("s3://s3.amazonaws.com/b/k", "http://s3.amazonaws.com", {}, "http://s3.us-east-1.amazonaws.com"),
        ("s3://evilamazonaws.com/b/k", "", {}, "http://evilamazonaws.com"),
        ("gs://b/k", "", {}, "https://storage.googleapis.com"),
    ],
)
def test_the_scheme_of_a_store(address, endpoint, settings, shown):
    store, _ = opened(address, Access(None, endpoint), **settings)
    assert store._requests._bucket.endpoint == shown


def test_web_addresses_keep_their_queries():
    _, key = opened("https://host/a/b.tar?X-Amz-Signature=abc&x=%2F")
    assert key == "a/b.tar?X-Amz-Signature=abc&x=%2F"


def test_stores_show_no_secrets():
    store, _ = opened("s3://minio:9000/bucket/a", keys("AKIAKEY"))
    assert "secret" not in repr(store)
    assert "AKIAKEY" not in repr(store)


def test_schemes_that_there_are_not():
    with pytest.raises(ArtifactInvalidError, match="ftp://") as error:
        opened("ftp://host/x")
    assert "s3://" in (error.value.hint or "")


async def test_stores_that_were_closed_open_again():
    stores = Stores()
    stores.open(Location.parse("s3://minio:9000/bucket/a"))
    await stores.close()
    await stores.close()
    assert stores.open(Location.parse("s3://minio:9000/bucket/a"))[1] == "a"


@pytest.mark.parametrize(
    "way", ["{root}/secret", "{root}/store/../secret", "{root}/store/link/secret", "{root}/storehouse/x"]
)
def test_messages_name_files_only_where_they_may(tmp_path, way):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path)
    stores = Stores(reach=Reach((tmp_path / "store",)))
    with pytest.raises(ArtifactInvalidError):
        stores.open(Location.parse(f"file://{way.format(root=tmp_path)}"))
    assert stores.open(Location.parse(f"file://{tmp_path}/store/a/b.tar"))[1] == "b.tar"


def test_a_root_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "store")
    for name in ("store", "linked"):
        stores = Stores(reach=Reach((tmp_path / name,)))
        assert stores.open(Location.parse(f"file://{tmp_path}/linked/a.tar"))[1] == "a.tar"
