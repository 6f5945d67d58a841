"""Who opens the store of an artifact, and how it is reached."""

import json

import pytest

from studio_runner.errors import ArtifactInvalidError
from studio_runner.messages.artifact import AwsCredentials, Credentials, Location, PlainCredentials
from studio_runner.messages.request import StoreConfig, parse_request
from studio_runner.storage.access import Access, access_of_section, access_to, below

OWN = {"aws": {"access_key": "OWN", "secret_access_key": "own-secret", "region": "eu-west-1"}}
STORED = {"aws": {"access_key": "STORED", "secret_key": "stored-secret"}}
ENV = {"AWS_ACCESS_KEY_ID": "ENV", "AWS_SECRET_ACCESS_KEY": "env-secret", "AWS_DEFAULT_REGION": "us-west-2"}


def access(address="s3://minio:9000/bucket/key", credentials=None, env=None, **config):
    artifact = {"qualified": address, "mutable": True, **({"credentials": credentials} if credentials else {})}
    message = {
        "experiment": {"key": "k", "filename": None, "pythonver": 3, "artifacts": {"data": artifact}},
        "config": {"env": env or {}, **config},
    }
    message["experiment"]["artifacts"]["_singularity"] = {"qualified": "docker://x"}
    request = parse_request(json.dumps(message).encode())
    return access_to(request, request.artifacts["data"])


def key_of(made: Access):
    return made.aws and made.aws.access_key


def test_the_first_that_names_anybody_wins():
    storage = {"type": "s3", "endpoint": "http://minio:9000", "credentials": STORED}
    with_user = "s3://USER:user-secret@minio:9000/bucket/key"
    assert key_of(access(with_user, OWN, ENV, storage=storage)) == "OWN"
    assert key_of(access(with_user, None, ENV, storage=storage)) == "USER"
    assert key_of(access(env=ENV, storage=storage)) == "ENV"
    assert key_of(access(storage=storage)) == "STORED"
    assert access().credentials is None


def test_two_empty_keys_ask_for_nobody():
    made = access(credentials={"aws": {"access_key": "", "secret_access_key": ""}}, env=ENV)
    assert made.aws is not None
    assert made.aws.anonymous


def test_the_region_of_the_environment_is_for_keys_without_one():
    assert access(env=ENV).region == "us-west-2"
    assert access(credentials=OWN, env=ENV).aws.region == "eu-west-1"
    assert access().region is None


def test_a_user_and_a_password_are_a_pair_of_keys():
    aws = Access(Credentials(plain=PlainCredentials(user="USER", password="user-secret"))).aws
    assert aws == AwsCredentials(access_key="USER", secret_access_key="user-secret")


def test_what_opens_one_web_server_is_not_shown_to_another():
    storage = {"type": "s3", "credentials": {"plain": {"user": "u", "password": "p"}}}
    assert access("https://elsewhere/x.tar", env=ENV, storage=storage).credentials is None
    own = access("https://u:p@elsewhere/x.tar", env=ENV, storage=storage).credentials
    assert own is not None
    assert own.plain == PlainCredentials(user="u", password="p")


@pytest.mark.parametrize(
    ("endpoint", "scheme"),
    [
        ("https://minio:9000", "https"),
        ("http://minio:9000/", "http"),
        ("HTTPS://MINIO:9000", "https"),
        ("minio:9000", ""),
        ("https://minio:9001", ""),
        ("https://other:9000", ""),
        ("", ""),
    ],
)
def test_the_scheme_of_an_endpoint_counts_for_its_own_host(endpoint, scheme):
    for section in ("storage", "database"):
        made = access(**{section: {"type": "s3", "endpoint": endpoint}})
        assert made.scheme_for("minio:9000") == scheme


def test_a_port_that_the_scheme_implies_need_not_be_said():
    made = access("s3://minio/bucket/key", storage={"type": "s3", "endpoint": "https://minio:443"})
    assert made.scheme_for("minio") == "https"
    assert made.scheme_for("minio:443") == "https"
    assert made.scheme_for("minio:80") == ""


def test_secrets_are_not_shown():
    made = access(credentials=OWN)
    assert "own-secret" not in repr(made)
    assert "OWN" not in repr(made)


# Sections of the configuration


def test_where_a_section_is():
    section = StoreConfig(type="s3", endpoint="https://minio:9000", bucket="database")
    location, made = access_of_section(section, ENV)
    assert location == Location("s3", "minio:9000", "database", "")
    assert below(location, "experiments/k") == Location("s3", "minio:9000", "database", "experiments/k")
    assert made.scheme_for("minio:9000") == "https"
    assert key_of(made) == "ENV"
    assert made.region == "us-west-2"


def test_its_own_credentials_come_first():
    section = StoreConfig(type="s3", bucket="database", credentials=Credentials.model_validate(STORED))
    location, made = access_of_section(section, ENV)
    assert location.endpoint == "s3.amazonaws.com"
    assert key_of(made) == "STORED"


@pytest.mark.parametrize("kind", ["gs", "gcloud", "GCS"])
def test_google_by_any_name(kind):
    location, _ = access_of_section(StoreConfig(type=kind, bucket="database"), {})
    assert location == Location("gs", "", "database", "")


def test_a_local_section_is_a_directory():
    location, _ = access_of_section(StoreConfig(type="local", endpoint="/home/u/store", bucket="db"), {})
    assert below(location, "experiments/k") == Location("file", "", "", "/home/u/store/db/experiments/k")


@pytest.mark.parametrize(
    "section", [{"type": "s3"}, {"type": "firebase", "bucket": "x"}, {"type": "gs", "bucket": ""}]
)
def test_a_section_that_names_no_store(section):
    with pytest.raises(ArtifactInvalidError, match="configuration of a store"):
        access_of_section(StoreConfig.model_validate(section), {})
