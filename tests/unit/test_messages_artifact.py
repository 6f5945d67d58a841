import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from studio_runner.messages.artifact import Artifact, Credentials, Location
from studio_runner.messages.request import parse_request

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # busy machines


def artifact(**fields):
    return Artifact.model_validate({"label": "modeldir", "qualified": "s3://host/bucket/a/b.tar", **fields})


@pytest.mark.parametrize(
    ("address", "location"),
    [
        (
            "s3://s3-us-west-2.amazonaws.com/bkt/blob/x.tar",
            ("s3", "s3-us-west-2.amazonaws.com", "bkt", "blob/x.tar"),
        ),
        ("s3://127.0.0.1:9000/bkt/x.tar", ("s3", "127.0.0.1:9000", "bkt", "x.tar")),
        ("s3://[::1]:9000/bkt/x.tar", ("s3", "[::1]:9000", "bkt", "x.tar")),
        ("s3://user:pass@host/bkt/x.tar", ("s3", "host", "bkt", "x.tar")),
        ("S3://host/bkt/a?b#c%20d e", ("s3", "host", "bkt", "a?b#c%20d e")),
        ("gs://bkt/a/b.tar", ("gs", "", "bkt", "a/b.tar")),
        ("file:///home/a b/x.tar", ("file", "", "", "/home/a b/x.tar")),
        ("file://localhost/x.tar", ("file", "", "", "/x.tar")),
        ("file://home/me/x.tar", ("file", "", "", "/home/me/x.tar")),
        ("https://user:pass@host:8443/p/x.tar?q=1", ("https", "host:8443", "", "p/x.tar?q=1")),
        ("http://host/x.tar", ("http", "host", "", "x.tar")),
        ("docker://tensorflow/tensorflow:latest", ("docker", "", "", "tensorflow/tensorflow:latest")),
        ("dockerhub://u/i", ("dockerhub", "", "", "u/i")),
        ("shub://u/i", ("shub", "", "", "u/i")),
        ("library://u/c/i:1", ("library", "", "", "u/c/i:1")),
        ("oras://reg:5000/i", ("oras", "", "", "reg:5000/i")),
    ],
)
def test_an_address_is_taken_apart(address, location):
    assert Location.parse(address) == Location(*location)


@pytest.mark.parametrize(
    "address",
    ["", "x", "/home/x.tar", "s3:/h/b/k", "s3://", "s3://h", "s3://h/b", "s3://h/b/", "s3:///b/k", "gs://b", "gs:///k",
     "file://", "file://x.tar", "http://h", "http:///x", "docker://", "://h/b/k", "5x://h/b/k",
     "s3://h\r\nX: 1/b/k", "s3://h?x/b/k", "s3://h#x/b/k", "s3://a b/b/k", "s3://[::1/b/k", "s3://h:99999/b/k",
     "s3://h:x/b/k", "s3://h%0d/b/k", "http://..../k", "https://h\\evil/k", f"s3://{'a' * 64}/b/k"],
)  # fmt: skip
def test_an_address_that_leads_nowhere_is_refused(address):
    with pytest.raises(ValueError, match="accepted is an address such as"):
        Location.parse(address)


@pytest.mark.parametrize(
    "host", ["my_store:9000", "xn--bcher-kva.example", "b\u00fccher.example", "minio.", "1.2.3.4"]
)
def test_names_that_machines_have_are_hosts(host):
    assert Location.parse(f"s3://{host}/b/k").endpoint == host


@unhurried
@given(st.text(max_size=40) | st.text("s3:/@h.?#", max_size=20).map("s3://".__add__))
def test_any_text_is_an_address_or_refused(address):
    try:
        location = Location.parse(address)
    except ValueError:
        return
    assert location.scheme
    assert location.key
    assert "@" not in location.endpoint


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://u:p@h/b/k", "s3://h/b/k"),
        ("file:///x/y", "file:///x/y"),
        ("https://h/k?X-Amz-Signature=abc", "https://h/k?***"),
        ("docker://u/i@sha256:ab", "docker://u/i@sha256:ab"),
    ],
)
def test_a_location_is_shown_without_what_opens_it(address, shown):
    assert repr(Location.parse(address)) == f"Location('{shown}')"


def test_the_digest_of_an_image_is_no_password():
    reference = "docker://ubuntu@sha256:abcd"
    assert artifact(qualified=reference).address == reference
    document = {"experiment": {"key": "k", "artifacts": {"_singularity": {"qualified": reference}}}}
    request = parse_request(json.dumps(document).encode())
    assert request.credentials(request.artifacts["_singularity"]) is None


def test_an_artifact_names_its_place():
    found = artifact(mutable=True, unpack=True, saveFrequency=30, hash="AB" * 32)
    assert (found.bucket, found.key, found.name) == ("bucket", "a/b.tar", "b.tar")
    assert found.location == Location("s3", "host", "bucket", "a/b.tar")
    assert (found.mutable, found.unpack, found.save_frequency, found.hash) == (True, True, 30, "ab" * 32)


def test_flags_that_are_missing_or_null_are_off():
    assert not artifact().mutable
    assert not artifact(unpack=None).unpack
    assert artifact(hash="").hash is None
    assert artifact(saveFrequency=0).save_frequency is None


@pytest.mark.parametrize("name", ["w.tar", "W.TAR.GZ", "w.tgz", "w.tar.zst"])
@pytest.mark.parametrize("flag", [{}, {"unpack": None}])
def test_what_a_client_packed_is_unpacked_where_it_does_not_say(name, flag):
    """Reused artifacts, and the workspaces of hyperparameter searches, come so."""
    key = f"experiments/k/{name}"
    assert artifact(qualified=f"s3://host/bucket/{key}", key=key, **flag).unpack
    assert not artifact(qualified=f"s3://host/bucket/{key}", **flag).unpack
    assert not artifact(qualified=f"s3://host/bucket/{key}", key=key, unpack=False).unpack


def test_what_is_not_named_like_an_archive_is_not_unpacked_unasked():
    assert not artifact(qualified="s3://host/bucket/image.sif", key="image.sif").unpack


def test_bucket_and_key_of_the_message_are_kept():
    found = artifact(bucket="other", key="k")
    assert (found.bucket, found.key) == ("other", "k")


@pytest.mark.parametrize("qualified", [{}, {"qualified": None}, {"qualified": ""}])
def test_old_clients_give_a_url_alone(qualified):
    found = Artifact.model_validate({"label": "x", "url": "https://host/x.tar", **qualified})
    assert found.qualified == "https://host/x.tar"
    assert found.key == "x.tar"


def test_an_address_is_shown_without_what_opens_it():
    found = artifact(qualified="https://user:pass@host/x.tar?X-Amz-Signature=abc")
    assert found.address == "https://***@host/x.tar?***"
    assert "pass" not in repr(found)
    assert "abc" not in repr(found)


@pytest.mark.parametrize(
    "spelled",
    [
        {"access_key": "A", "secret_access_key": "S"},
        {"access_key": "A", "secret_key": "S"},
        {"access_key_id": "A", "secret_access_key": "S"},
        {"aws_access_key_id": "A", "aws_secret_access_key": "S"},
    ],
)
def test_keys_read_in_every_spelling(spelled):
    found = artifact(credentials={"aws": {**spelled, "region": "us-west-2", "session_token": "T"}}).credentials.aws
    assert (found.access_key, found.secret_access_key, found.region, found.session_token) == (
        "A",
        "S",
        "us-west-2",
        "T",
    )
    assert not found.anonymous


@pytest.mark.parametrize(
    "empty", [{}, {"access_key": "", "secret_access_key": ""}, {"access_key": None, "secret_key": None}]
)
def test_empty_keys_are_anonymous(empty):
    assert artifact(credentials={"aws": empty}).credentials.aws.anonymous


def test_other_transports_have_other_credentials():
    assert artifact(credentials={"plain": {"user": "u", "password": "p"}}).credentials.plain.password == "p"
    assert artifact(credentials={"plain": {"username": "u"}}).credentials.plain.user == "u"
    assert artifact(credentials={"jwt": {"token": "t"}}).credentials.jwt.token == "t"
    assert artifact(credentials={"jwt": "t"}).credentials.jwt.token == "t"


def test_secrets_are_not_shown_however_they_are_spelled():
    given_keys = {"access_key": "Q1", "secret_key": "Q2", "session_token": "Q3", "secretKey": "Q4"}
    found = Credentials.model_validate({"aws": given_keys, "plain": {"password": "Q5"}, "jwt": "Q6", "other": "Q7"})
    for text in (repr(found), str(found), repr(found.aws), str(found.aws), f"{found.plain} {found.jwt}"):
        assert "Q" not in text


AWS_ENV = {
    "AWS_ACCESS_KEY_ID": "E",
    "AWS_SECRET_ACCESS_KEY": "ES",
    "AWS_DEFAULT_REGION": "r",
    "AWS_SESSION_TOKEN": "t",
}
STORAGE = {"type": "s3", "credentials": {"aws": {"access_key": "C", "secret_access_key": "CS"}}}


@pytest.mark.parametrize(
    ("fields", "config", "access_key"),
    [
        (
            {"credentials": {"aws": {"access_key": "A", "secret_key": "S"}}},
            {"env": AWS_ENV, "storage": STORAGE},
            "A",
        ),
        ({"credentials": {}}, {"env": AWS_ENV, "storage": STORAGE}, "E"),
        ({"credentials": None}, {"env": AWS_ENV}, "E"),
        ({}, {"env": {"AWS_ACCESS_KEY_ID": "E"}, "storage": STORAGE}, "C"),
        ({}, {"storage": STORAGE}, "C"),
    ],
)
def test_credentials_come_from_the_nearest_place_that_has_them(fields, config, access_key):
    workspace = {"qualified": "s3://h/b/k", **fields}
    document = {
        "experiment": {"key": "k", "filename": "a.py", "artifacts": {"workspace": workspace}},
        "config": config,
    }
    request = parse_request(json.dumps(document).encode())
    assert request.credentials(request.artifacts["workspace"]).aws.access_key == access_key


def test_variables_carry_region_and_session():
    document = {
        "experiment": {"key": "k", "artifacts": {"x": {"qualified": "s3://h/b/k"}}},
        "config": {"env": AWS_ENV},
    }
    request = parse_request(json.dumps(document).encode())
    found = request.credentials(request.artifacts["x"]).aws
    assert (found.secret_access_key, found.region, found.session_token) == ("ES", "r", "t")


def test_user_and_password_may_stand_in_the_address():
    document = {"experiment": {"key": "k", "artifacts": {"x": {"qualified": "https://u:p%40@h/k"}}}}
    request = parse_request(json.dumps(document).encode())
    found = request.credentials(request.artifacts["x"]).plain
    assert (found.user, found.password) == ("u", "p@")


def test_without_credentials_anywhere_there_are_none():
    document = {"experiment": {"key": "k", "artifacts": {"x": {"qualified": "s3://h/b/k"}}}}
    request = parse_request(json.dumps(document).encode())
    assert request.credentials(request.artifacts["x"]) is None


@pytest.mark.parametrize("address", ["https://us%00er@h/k", "s3://user:canary%00@h/b/k"])
def test_an_address_of_which_no_credentials_can_be_made_is_refused(address):
    with pytest.raises(ValidationError, match="without NUL characters") as caught:
        Artifact.model_validate({"qualified": address})
    assert "canary" not in str(caught.value)
