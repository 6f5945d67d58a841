"""What needs no server of the client for S3: signatures, addresses, refusals, listings, trying again."""

import asyncio
import time

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from studio_runner.config.settings import StorageSettings
from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.storage.base import Precondition
from studio_runner.storage.objects.answers import About, Refusal, fault, http_date, listing, refused
from studio_runner.storage.objects.bucket import Bucket
from studio_runner.storage.objects.client import Call, Client
from studio_runner.storage.objects.retry import PassingError, Patience, persist
from studio_runner.storage.objects.signing import AWS, GOOGLE, Keys, Unsigned, encode_query, sign
from studio_runner.storage.objects.versions import GOOGLE_VERSIONS, S3_VERSIONS, size_of

NOW = 1_700_000_000.0
ABOUT = About("http://minio:9000", "data", "s3://minio:9000/data/a/b", "access key AKIA...", "read")
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


# Signatures


@given(
    key=TEXT.filter(lambda key: not {".", ".."} & set(key.split("/"))),
    query=st.dictionaries(st.sampled_from(["uploadId", "prefix", "list-type", "a b"]), TEXT, max_size=3),
    token=st.none() | st.just("a-session-token"),
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
)
def test_signatures_are_those_of_amazons_own_library(
    key: str, query: dict[str, str], token: str | None, method: str
):
    bucket = Bucket.at("http", "minio:9000", "data", "eu-west-1")
    path, asked = bucket.path(key), encode_query(query.items())
    ours = sign(
        Unsigned(method, bucket.netloc, path, asked, {"x-amz-meta-a": "b"}, "UNSIGNED-PAYLOAD"),
        Keys("AKIAKEY", "secret", token), AWS, "eu-west-1", NOW,
    )  # fmt: skip
    url = f"http://{bucket.netloc}{path}" + (f"?{asked}" if asked else "")
    theirs = AWSRequest(method=method, url=url, headers={"x-amz-meta-a": "b"})
    theirs.context.update(timestamp=ours["x-amz-date"], payload_signing_enabled=False)
    auth = S3SigV4Auth(BotoCredentials("AKIAKEY", "secret", token), "s3", "eu-west-1")
    theirs.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"
    if token:
        theirs.headers["X-Amz-Security-Token"] = token
    theirs.headers["X-Amz-Date"] = ours["x-amz-date"]
    canonical = auth.canonical_request(theirs)
    signature = auth.signature(auth.string_to_sign(theirs, canonical), theirs)
    assert ours["authorization"].endswith(f"Signature={signature}")


def test_google_signs_in_its_own_words():
    bucket = Bucket.at("https", "storage.googleapis.com", "data", None)
    headers = sign(
        Unsigned("PUT", bucket.netloc, bucket.path("a"), "", GOOGLE_VERSIONS.condition(Precondition(None)), "0" * 64),
        Keys("GOOGKEY", "secret"), bucket.dialect, bucket.region, NOW,
    )  # fmt: skip
    assert bucket.dialect is GOOGLE
    assert headers["authorization"].startswith("GOOG4-HMAC-SHA256 Credential=GOOGKEY/20231114/")
    assert (
        "/storage/goog4_request, SignedHeaders=host;x-goog-content-sha256;x-goog-date;x-goog-if"
        in (headers["authorization"])
    )
    assert not [name for name in headers if name.startswith("x-amz")]


def test_keys_show_too_little_to_be_used():
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI", "a-session-token")
    assert str(keys) == "access key AKIA..."
    assert "wJalr" not in repr(keys)
    assert "a-session" not in repr(keys)


# Where a bucket is


@pytest.mark.parametrize(
    ("host", "name", "region", "netloc", "path", "told"),
    [
        ("minio:9000", "data", None, "minio:9000", "/data/a%20b", "us-east-1"),
        ("minio:9000", "data", "eu-west-1", "minio:9000", "/data/a%20b", "eu-west-1"),
        ("s3.amazonaws.com", "data", None, "data.s3.us-east-1.amazonaws.com", "/a%20b", "us-east-1"),
        ("s3.amazonaws.com", "data", "eu-west-1", "data.s3.eu-west-1.amazonaws.com", "/a%20b", "eu-west-1"),
        ("s3-us-west-2.amazonaws.com", "data", None, "data.s3-us-west-2.amazonaws.com", "/a%20b", "us-west-2"),
        ("s3.us-west-2.amazonaws.com", "data", None, "data.s3.us-west-2.amazonaws.com", "/a%20b", "us-west-2"),
        ("s3.amazonaws.com", "dots.in.it", None, "s3.us-east-1.amazonaws.com", "/dots.in.it/a%20b", "us-east-1"),
        ("s3.amazonaws.com", "Old_Name", None, "s3.us-east-1.amazonaws.com", "/Old_Name/a%20b", "us-east-1"),
        ("s3.us-gov-west-1.amazonaws.com", "data", None, "data.s3.us-gov-west-1.amazonaws.com", "/a%20b",
         "us-gov-west-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "data", None, "data.s3.cn-north-1.amazonaws.com.cn", "/a%20b",
         "cn-north-1"),
        ("minio.example:443", "data", None, "minio.example", "/data/a%20b", "us-east-1"),
    ],
)  # fmt: skip
def test_hosts_and_regions(host, name, region, netloc, path, told):
    bucket = Bucket.at("https", host, name, region)
    assert (bucket.netloc, bucket.path("a b"), bucket.region) == (netloc, path, told)


def test_a_bucket_that_turns_out_to_be_in_another_region():
    assert Bucket.at("https", "s3.amazonaws.com", "data", None).moved("eu-west-1").netloc == (
        "data.s3.eu-west-1.amazonaws.com"
    )
    elsewhere = Bucket.at("http", "minio:9000", "data", None).moved("garage")
    assert (elsewhere.netloc, elsewhere.region) == ("minio:9000", "garage")


# Refusals


def refusal(status: int, code: str = "", message: str = "", **headers: str) -> Refusal:
    body = (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else message
    )
    return Refusal.read(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (404, "NoSuchKey", ObjectNotFoundError, "no object at s3://minio:9000/data/a/b"),
        (404, "", ObjectNotFoundError, "no object at s3://minio:9000/data/a/b"),
        (404, "NoSuchBucket", ArtifactMissingError, "bucket data does not exist on http://minio:9000"),
        (412, "PreconditionFailed", PreconditionFailedError, "not the version"),
        (403, "AccessDenied", UnauthorisedError, "forbids access key AKIA... to read s3://minio:9000/data/a/b"),
        (403, "InvalidAccessKeyId", UnauthorisedError, "http://minio:9000 does not know access key AKIA..."),
        (403, "SignatureDoesNotMatch", UnauthorisedError, "does not accept the secret of access key AKIA..."),
        (400, "ExpiredToken", UnauthorisedError, "session token of access key AKIA... is not valid any more"),
        (403, "RequestTimeTooSkewed", StorageUnavailableError, "this machine's clock"),
        (400, "EntityTooLarge", ArtifactInvalidError, "refuses to read"),
        (501, "NotImplemented", StorageUnavailableError, "cannot do what is asked"),
        (505, "", StorageUnavailableError, "cannot read"),
        (503, "SlowDown", PassingError, "refuses for now"),
        (500, "InternalError", PassingError, "refuses for now"),
        (400, "RequestTimeout", PassingError, "refuses for now"),
        (409, "ConditionalRequestConflict", PassingError, "refuses for now"),
        (429, "", PassingError, "refuses for now"),
    ],
)  # fmt: skip
def test_refusals_are_told_apart(status: int, code: str, error: type[Exception], words: str):
    made = fault(refusal(status, code, "so it is"), ABOUT)
    assert type(made) is error or isinstance(made, error)
    assert words in str(made)


def test_a_plain_port_that_wants_tls_says_so():
    made = fault(refusal(400, message="Client sent an HTTP request to an HTTPS server.\n"), ABOUT)
    assert "wants TLS" in str(made)


def test_a_server_may_say_how_long_to_wait():
    made = fault(refusal(503, "SlowDown", retry_after="7"), ABOUT)
    assert isinstance(made, PassingError)
    assert made.after == 7
    assert refusal(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT").after == 0


def test_the_region_a_refusal_names():
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    assert Refusal.read(400, {}, body).elsewhere
    assert Refusal.read(301, {"x-amz-bucket-region": "eu-west-1"}, b"").region == "eu-west-1"
    assert not refusal(403, "AccessDenied", x_amz_bucket_region="eu-west-1").elsewhere


@given(body=st.binary(max_size=300))
def test_whatever_comes_with_a_refusal_is_survived(body: bytes):
    made = fault(Refusal.read(400, {}, body), ABOUT)
    assert str(made).isprintable()
    assert not refused(body)


def test_dates():
    assert http_date("Wed, 21 Oct 2015 07:28:00 GMT") == 1445412480.0
    for odd in (
        "yesterday",
        "Mon, 99999999999999999999 Jan 2020 00:00:00 GMT",
        "0 Jan GMT 00:00:00 99999999999999 Jan",
    ):
        assert http_date(odd) == 0.0


def test_a_size_that_no_object_has_is_none():
    assert size_of({"content-length": "5"}) == 5
    for odd in ("9" * 5000, "9" * 19, "-1", "", "*"):
        assert size_of({"content-range": f"bytes 0-1/{odd}", "content-length": odd}) == -1


# Listings


def test_listings():
    page = listing(
        b"""<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
        <IsTruncated>true</IsTruncated><NextContinuationToken>t/=+</NextContinuationToken><EncodingType>url</EncodingType>
        <Contents><Key>a+b%2Bc/%C3%A9</Key><LastModified>2015-10-21T07:28:00.500Z</LastModified>
        <ETag>&quot;abc-2&quot;</ETag><Size>12</Size></Contents></ListBucketResult>"""
    )
    assert page.next == "t/=+"
    (entry,) = page.entries
    assert (entry.key, entry.size, entry.etag, entry.modified) == ("a b+c/é", 12, "abc-2", 1445412480.5)


def test_names_that_are_not_encoded_are_taken_as_they_are():
    page = listing(
        b"""<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a+b%20</Key><Size>1</Size>
        <LastModified>2015-10-21T07:28:00Z</LastModified></Contents></ListBucketResult>"""
    )
    assert page.next is None
    assert page.entries[0].key == "a+b%20"


@pytest.mark.parametrize("crowd", ["<a/>" * 300_000, "<a " + " ".join(f'a{n}="1"' for n in range(300_000)) + "/>"])
def test_an_answer_of_nothing_but_tags_is_not_read(crowd):
    """Sixteen megabytes of them are half a gigabyte of elements, and seconds."""
    body = f"<ListBucketResult>{crowd}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
    with pytest.raises(StorageUnavailableError, match="no listing"):
        listing(body)


def test_a_page_of_something_else_is_no_listing():
    with pytest.raises(StorageUnavailableError, match="no listing"):
        listing(b"<html><body>Welcome</body></html>")


@pytest.mark.parametrize(
    "declaration",
    ['<!DOCTYPE l [<!ENTITY a "aaaa">]>', '<!DOCTYPE l SYSTEM "file:///etc/passwd">', "<!DOCTYPE l>"],
)
def test_answers_declare_nothing(declaration):
    """Entities can stand for gigabytes, or for a file of this machine."""
    with pytest.raises(StorageUnavailableError, match="no listing"):
        listing(f"{declaration}<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".encode())


@pytest.mark.parametrize("entry", ["<Key>a</Key>", "<Key>a</Key><Size>x</Size><LastModified>now</LastModified>"])
def test_an_entry_that_cannot_be_read(entry):
    with pytest.raises(StorageUnavailableError, match="cannot be read"):
        listing(f"<ListBucketResult><Contents>{entry}</Contents></ListBucketResult>".encode())


# Versions


def test_conditions_are_said_in_the_words_of_the_service():
    assert S3_VERSIONS.condition(Precondition(None)) == {"if-none-match": "*"}
    assert S3_VERSIONS.condition(Precondition("abc")) == {"if-match": '"abc"'}
    assert S3_VERSIONS.condition(None) == {}
    assert GOOGLE_VERSIONS.condition(Precondition(None)) == {"x-goog-if-generation-match": "0"}
    assert GOOGLE_VERSIONS.condition(Precondition("17")) == {"x-goog-if-generation-match": "17"}
    assert GOOGLE_VERSIONS.etag({"etag": '"x"', "x-goog-generation": "17"}) == "17"


# Trying again


async def test_what_went_wrong_is_tried_until_it_goes_right():
    tries = 0

    async def attempt() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise PassingError("not yet")
        return "done"

    assert await persist(30.0, attempt) == "done"


async def test_patience_counts_from_the_last_success(monkeypatch: pytest.MonkeyPatch):
    clock = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    patience = Patience(60.0)
    for _ in range(20):
        clock += 50.0
        await patience.wait(PassingError("slow"))
        patience.renew()
    clock += 61.0
    with pytest.raises(StorageUnavailableError, match=r"slow \(tried once\)"):
        await patience.wait(PassingError("slow"))


async def test_a_server_that_asks_for_more_time_than_there_is_is_not_waited_for():
    began = time.monotonic()
    with pytest.raises(StorageUnavailableError):
        await Patience(60.0).wait(PassingError("slow", after=3600))
    assert time.monotonic() - began < 50


@pytest.mark.parametrize("region", ["evil.example/", "evil.example#", "a.b", "", "x\r\ny"])
def test_a_region_leads_to_no_other_host(region):
    bucket = Bucket.at("https", "s3.amazonaws.com", "data", region or None)
    assert bucket.moved(region).netloc.removeprefix("data.") in ("s3.amazonaws.com", "s3.us-east-1.amazonaws.com")


# Places that are no stores


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"])
async def test_nobody_is_given_what_the_machine_itself_is_told(host):
    """Clouds hand out the machine's credentials there, to whoever asks from it."""
    client = Client(StorageSettings(patience=1.0))
    with pytest.raises(ArtifactInvalidError, match="is no store"):
        async with client.send(Call("GET", f"http://{host}/latest/meta-data/", {})):
            pass
    await client.close()
