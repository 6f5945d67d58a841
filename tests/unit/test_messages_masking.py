"""Masking: no form of a secret is seen, however it comes; harmless text stays as it is."""

import base64
import html
import json
import re
import shlex
from itertools import pairwise
from textwrap import wrap
from urllib.parse import quote, quote_plus
from xml.sax import saxutils

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from studio_runner.messages.credentials import is_telling, secrets_in, secrets_of
from studio_runner.messages.masking import HEAD, REMEMBERED, SHOWN, Masker, Secrets, Stream, merged
from studio_runner.messages.request import parse_request

SECRET = "canary/Not+a=Real&Secret"
PEM = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "Canary0NotAKeyAtAll/" * 3
    + "\n"
    + "CanaryLine2NotAKey+/" * 3
    + "\n-----END PRIVATE KEY-----\n"
)

secrets = st.text(st.characters(exclude_categories=("Cs",)), min_size=6, max_size=80).filter(is_telling)
FORMS = {
    "as it is": str.encode,
    "base64": lambda secret: base64.b64encode(secret.encode()),
    "base64 for addresses": lambda secret: base64.urlsafe_b64encode(secret.encode()),
    "percent": lambda secret: quote(secret, safe="").encode(),
    "percent, lower case": lambda secret: _lower(quote(secret, safe="")).encode(),
    "path": lambda secret: quote(secret).encode(),
    "form": lambda secret: quote_plus(secret).encode(),
    "JSON": lambda secret: json.dumps(secret)[1:-1].encode(),
    "JSON of UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1].encode(),
    "JSON of PHP": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/").encode(),
    "repr": lambda secret: repr(secret)[1:-1].encode(),
    "hex": lambda secret: secret.encode().hex().encode(),
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret))[3:-3].encode(),
    "JSON in JSON of UTF-8": lambda secret: json.dumps(_wide(secret), ensure_ascii=False)[3:-3].encode(),
    "JSON in Python": lambda secret: repr(json.dumps(secret))[2:-2].encode(),
    "percent, twice": lambda secret: quote(quote(secret, safe=""), safe="").encode(),
    "HTML": lambda secret: html.escape(secret).encode(),
    "HTML of templates": lambda secret: (
        html.escape(secret).replace("&quot;", "&#34;").replace("&#x27;", "&#39;").encode()
    ),
    "XML": lambda secret: saxutils.escape(secret).encode(),
    "XML, quoted": lambda secret: saxutils.escape(secret, {'"': "&quot;"}).encode(),
    "shell": lambda secret: shlex.quote(f"{secret} ")[1:-2].encode(),
    "shell, traced": lambda secret: secret.replace("'", "'\\''").encode(),
    "shell, exported": lambda secret: re.sub(r'(["$`\\])', r"\\\1", secret).encode(),
}


def _wide(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _lower(text: str) -> str:
    first, *others = text.split("%")
    return "%".join((first, *(other[:2].lower() + other[2:] for other in others)))


def in_pieces(stream: Stream, data: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    pieces = [stream.feed(data[start:end]) for start, end in pairwise(edges)]
    return b"".join(pieces) + stream.finish()


@given(secrets, st.sampled_from(sorted(FORMS)), st.text(max_size=30), st.text(max_size=30))
def test_no_form_of_a_secret_is_seen(secret: str, kind: str, before: str, after: str) -> None:
    form, before_bytes = FORMS[kind](secret), before.encode(errors="replace")
    data = before_bytes + form + after.encode(errors="replace")

    masked = Masker([secret]).blank(data)

    assert len(masked) == len(data)
    shown = masked[len(before_bytes) : len(before_bytes) + len(form)].rstrip(b"=")
    left = shown.strip(b"*")
    assert len(left) <= (2 if kind.startswith("base64") else 0)  # bits that neighbours share


@given(secrets, st.sampled_from(sorted(FORMS)), st.lists(st.integers(0, 300)))
def test_a_secret_in_pieces_is_hidden_but_for_its_first_characters(secret: str, kind: str, cuts: list[int]) -> None:
    form = FORMS[kind](secret)
    data = b"one " + form + b" two"

    masked = in_pieces(Masker([secret]).stream(), data, cuts)

    assert len(masked) == len(data)
    shown = masked[4 : 4 + len(form)].rstrip(b"=")
    assert not shown[SHOWN:].replace(b"*", b"")[2 if kind.startswith("base64") else 0 :]
    assert masked[-3:] == b"two"


@given(st.lists(secrets, max_size=3), st.binary(max_size=200), st.lists(st.integers(0, 300)))
def test_a_stream_hides_no_more_than_a_look_at_the_whole(known: list[str], noise: bytes, cuts: list[int]) -> None:
    data = noise + b" ".join(secret.encode() for secret in known) + noise
    masker = Masker(known)

    whole, streamed = masker.blank(data), in_pieces(masker.stream(), data, cuts)

    assert len(streamed) == len(data)
    for index, (one, other) in enumerate(zip(whole, streamed, strict=True)):
        assert one == other or other == data[index]


@given(secrets, st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_what_holds_no_secret_comes_back_as_it_was(secret: str, data: bytes, cuts: list[int]) -> None:
    masker = Masker([secret])
    assume(not masker.spans(data))
    assert masker.blank(data) == data
    assert in_pieces(masker.stream(), data, cuts) == data


@pytest.mark.parametrize("alignment", range(3))
def test_base64_of_something_around_a_secret_hides_it(alignment: int) -> None:
    encoded = base64.b64encode(b"x" * alignment + SECRET.encode() + b":rest of it")
    masked = Masker([SECRET]).blank(encoded)
    assert masked.count(b"*") >= len(SECRET) * 4 // 3 - 2


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_key_is_hidden_line_by_line_and_as_one(size: int) -> None:
    stream = Masker([PEM]).stream()
    data = b"here: " + PEM.encode() + b"and on\n"
    masked = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size)) + stream.finish()
    assert b"Canary" not in masked
    assert masked.endswith(b"and on\n")
    line = PEM.splitlines()[2]
    assert Masker([PEM]).text(f"just {line}.") == "just ***."


def test_a_long_secret_is_hidden_to_its_end() -> None:
    secret = "".join(f"canary{number}" for number in range(1000))
    masked = Masker([secret]).blank(f"<{secret}>".encode())
    assert masked == b"<" + b"*" * len(secret) + b">"


@pytest.mark.parametrize(
    "encode", [base64.encodebytes, lambda data: "\n".join(wrap(base64.b64encode(data).decode(), 64)).encode()]
)
def test_a_long_secret_is_hidden_in_lines_of_base64(encode) -> None:
    secret = "".join(f"canary{number}" for number in range(40))
    assert set(Masker([secret]).blank(encode(secret.encode()))) <= set(b"*\n=")


def test_the_short_end_of_a_secret_is_no_secret() -> None:
    masker = Masker(["canary" * 9 + "cana"])
    assert masker.text("YQ== and Cg==") == "YQ== and Cg=="


def test_overlapping_secrets_are_hidden_both() -> None:
    assert Masker(["canary-one", "one-canary-two"]).text("a canary-one-canary-two b") == "a *** b"


def test_the_beginning_of_a_long_secret_is_hidden_as_well() -> None:
    secret = "canary-abcdefghijklmnopqrstuvwxyz"
    assert Masker([secret]).text(f"{secret[:20]} was cut") == "*** was cut"


TOKENS = [
    ("AKIA", "IOSFODNN7CANARY1"),
    ("ghp_", "CanaryNotAToken000000000000000000000"),
    ("github_pat_", "11CANARY0_NotATokenAtAllButLongEnough00"),
    ("glpat-", "canary-not-a-token0"),
    ("xoxb-", "0000000000-canary"),
    ("ya29.", "canary-not-a-token-at-all"),
    ("dckr_pat_", "CanaryNotATokenAtAll0000000"),
    ("hvs.", "CanaryNotATokenAtAll0000000"),
    ("AccountKey=", "Canary+NotAKey/AtAll00000=="),
    ("hf_", "CanaryCanaryCanaryCanaryCanaryCana"),
    ("sk-", "proj-canary0canary0canary0canary0"),
    ("eyJ", "hbGciOiJub25lIn0.eyJzdWIiOiJjYW5hcnkifQ.Y2FuYXJ5"),
]


@pytest.mark.parametrize(("head", "rest"), TOKENS)
def test_tokens_are_known_by_their_looks(head: str, rest: str) -> None:
    assert Masker().text(f"with {head}{rest} and on") == f"with {head}*** and on"
    stream = Masker().stream()
    text = f"with {head}{rest} and on"
    masked = b"".join(stream.feed(bytes([byte])) for byte in text.encode()) + stream.finish()
    assert masked.decode() == f"with {head}{'*' * len(rest)} and on"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgres://me:canary@db.example/x", "postgres://***@db.example/x"),
        (r'{"u": "https:\/\/me:canary@db.example"}', r'{"u": "https:\/\/***@db.example"}'),
        ("get http://h.example/o?X-Amz-Date=1&X-Amz-Signature=c4a4r1", "get http://h.example/o?***"),
        ("Authorization: Basic Y2FuYXJ5OmNhbmFyeQ==", "Authorization: Basic ***"),
        ("{'Authorization': 'Bearer canary-canary-1'}", "{'Authorization': 'Bearer ***'}"),
        ("https://hooks.slack.com/services/T00CANARY/B00/canarycanary", "https://hooks.slack.com/services/***"),
        (PEM, "-----BEGIN ***\n"),
    ],
)
def test_addresses_headers_and_keys_lose_what_is_secret(text: str, masked: str) -> None:
    assert Masker().text(text) == masked


HARMLESS = """
epoch 12 of 100: loss 0.123456 accuracy 98.7 % lr 1e-4
see https://example.org/path@v2?page=2 or ssh://git@github.example/x.git or me@example.org
docker://example.org/image@sha256:0123456789abcdef Basic authentication is off. Bearer of news
task-12345678901234567890 desk-abcdefghijklmnopqrstuvwxyz sk-learn eyJ true false None anonymous
-----BEGIN CERTIFICATE-----\nMIIBCanary
"""


def test_harmless_text_stays_as_it_is() -> None:
    data = HARMLESS.encode()
    assert Masker(["canary-not-here"]).blank(data) == data
    assert in_pieces(Masker().stream(), data, list(range(len(data)))) == data


def test_nothing_is_held_back_that_is_no_beginning_of_a_secret() -> None:
    stream = Masker([SECRET]).stream()
    for line in (b"Password: ", b"12 %\r", b"can", b" . "):
        assert stream.feed(line) == line
    assert stream.feed(SECRET[:10].encode()) == b""
    assert stream.feed(b"!") == SECRET[:10].encode() + b"!"


def test_values_lose_secrets_in_names_and_leaves() -> None:
    masker = Masker(["canary-1", "1234567890123"])
    value = {"canary-1": ["x canary-1", 1234567890123, 5, None, True], "password": "shown never", "max_tokens": 7}
    assert masker.value(value) == {"***": ["x ***", "***", 5, None, True], "password": "***", "max_tokens": 7}


def test_a_masked_line_of_json_stays_one() -> None:
    secret = 'canary "quoted" \\ back'
    line = json.dumps({"a": secret, "b": f"https://me:canary@x.example/{secret}"}).encode()
    assert json.loads(Masker([secret]).blank(line)).keys() == {"a", "b"}


def test_secrets_are_known_as_long_as_somebody_knows_them_and_a_little_longer() -> None:
    known = Secrets()
    known.learn(["canary-0"])
    with known.known(["canary-1"]):
        with known.known(["canary-1", "canary-2"]):
            assert known.masker.text("canary-0 canary-1 canary-2") == "*** *** ***"
        assert known.masker.text("canary-2") == "***"  # somebody may still speak of it
        for number in range(REMEMBERED):
            with known.known([f"{number} is another one"]):
                pass
        with known.known(["and one more"]):
            assert known.masker.text("canary-0 canary-1 canary-2") == "*** *** canary-2"


def test_the_same_secrets_again_cost_nothing() -> None:
    known = Secrets()
    with known.known(["canary-1"]):
        before = known.masker
    with known.known(["canary-1"]):
        assert known.masker is before


def test_the_secrets_of_a_message() -> None:
    message = {
        "experiment": {
            "key": "k",
            "filename": "a.py",
            "args": ["--api-key=canary-arg1", "--token", "'canary arg2'", "--steps", "1000000"],
            "pythonenv": ["--extra-index-url https://me:canary-index@pip.example/simple"],
            "artifacts": {
                "workspace": {
                    "qualified": "http://h.example/w.tar?X-Amz-Signature=canary-sig&X-Amz-Date=20200101T000000Z",
                    "credentials": {
                        "aws": {"access_key": "canary-id", "secret_access_key": "canary-key", "region": "us-west-2"}
                    },
                },
                "tokenizer": {"qualified": "s3://h.example/b/t.tar", "credentials": {"jwt": "canary-jwt"}},
                "data": {"qualified": "gs://b/t", "credentials": {"plain": {"user": "someone", "password": "canary%20p"}}},
            },
        },
        "config": {
            "env": {
                "DB_PASSWORD": "canary-env",
                "SHORT_TOKEN": "abc",
                "API_TOKEN": "anonymous",
                "PIN_SECRET": 123456,
                "GOOGLE_APPLICATION_CREDENTIALS": "/keys/google.json",
                "SERVICE_CREDENTIAL": json.dumps({"private_key": PEM, "type": "service_account"}),
                "DATABASE_URL": "postgres://me:canary%2Fdb@h.example/x",
                "HOME_TOKEN": "%HOME%",
                "SSH_KEY": "~/.ssh/canary_rsa.pem",
                "FERNET_KEY": "canary-fernet",
            },
            "cloud": {"queue": {"rmq": "amqp://me:canary-rmq@h.example/%2f"}, "aws": {"secret_key": "canary-cloud"}},
            "server": {"authorization": "canary-server"},
            "database": {"type": "s3", "credentials": {"aws": {"session_token": "canary-session"}}},
            "optimizer": {"eos_token": "<|endoftext|>", "max_tokens": 4096},
        },
    }  # fmt: skip
    found = secrets_of(parse_request(json.dumps(message).encode()))
    assert found == {
        *("canary-arg1", "canary arg2", "canary-index", "canary-sig", "canary-id", "canary-key"),
        *("canary-jwt", "canary%20p", "canary-env", PEM.strip(), "canary%2Fdb", "canary/db", "canary-rmq"),
        *("canary-cloud", "canary-server", "canary-session", "canary-fernet"),
        message["config"]["env"]["SERVICE_CREDENTIAL"],  # type: ignore[index]
    }


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("amqp://me:canary@pass@h/v", {"canary@pass"}),
        ("amqp://me:canary/pass@h/v", {"canary/pass"}),
        ("https://canary-canary-canary:x-oauth-basic@h/", {"canary-canary-canary", "x-oauth-basic"}),
        ("https://canary-canary-canary:@h/", {"canary-canary-canary"}),
        ("https://h/page?canary-canary-canary", {"canary-canary-canary"}),
        ("docker://a-rather-long-name-of-an-image@sha256:0123456789", set()),
        ("http://h:8080/canary-canary-canary@v1.0", set()),
    ],
)
def test_the_secrets_of_an_address(value: str, found: set[str]) -> None:
    assert secrets_in({"place": value}) == found
    masked = Masker().text(f"at {value} now")
    assert [secret for secret in found if secret in masked] == []
    assert ("***" in masked) == bool(found)


def test_a_word_behind_the_question_mark_of_an_address_is_no_secret() -> None:
    assert secrets_in({"place": "https://h/page?latest"}) == set()


def test_the_secret_of_a_connection_string_is_one_by_itself() -> None:
    value = "DefaultEndpointsProtocol=https;AccountName=canary;AccountKey=canary+key/0==;EndpointSuffix=windows.net"
    assert secrets_in({"AZURE_STORAGE_CONNECTION_STRING": value}) == {value, "canary+key/0=="}


def test_secret_arguments_are_known_also_where_a_message_cannot_be_read() -> None:
    args = [
        "--password 'canary arg1' --lr 1",
        "--use-auth-token",
        "--learning-rate",
        "0.1",
        "--token",
        "canary-arg2",
    ]
    assert secrets_in({"args": args}) == {"canary arg1", "canary-arg2"}


def test_a_message_may_have_no_secrets():
    assert secrets_of(parse_request(b'{"experiment": {"key": "k"}}')) == frozenset()


@given(
    st.lists(st.text("ab\u00e9", max_size=6), min_size=1, max_size=8),
    st.text("ab\u00e9 ", max_size=40),
    st.lists(st.integers(0, 80)),
)
def test_secrets_that_begin_alike_are_hidden_as_each_would_be(ends: list[str], text: str, cuts: list[int]) -> None:
    head = "CanaryNotASecret"
    assert len(head) == HEAD
    known = [head + end for end in ends]
    data = text.replace("a ", head).encode()
    masker = Masker(known)

    each = merged(span for one in known for span in Masker([one]).spans(data))
    assert list(masker.spans(data)) == list(each)
    streamed = in_pieces(masker.stream(), data, cuts)
    for begin, end in each:
        assert not streamed[begin + SHOWN : end].strip(b"*")


def test_thousands_of_secrets_that_begin_alike_keep_nobody_busy():
    """A script may print that beginning again and again; an hour of looking, if each were looked at."""
    masker = Masker(f"CanaryNotASecret{number:05}" for number in range(20_000))
    shown = masker.blank(b"CanaryNotASecret zzz\n" * 20_000 + b"CanaryNotASecret00007")
    assert b"Canary" not in shown
    assert shown.endswith(b" zzz\n" + b"*" * 21)


def test_a_secret_that_repeats_itself_is_hidden_to_its_end_in_pieces():
    """Its end may be the beginning of another one: that is held back, and is secret all the same."""
    stream = Masker(["canarycanarycanary"]).stream()
    shown = b"".join(stream.feed(bytes([byte])) for byte in b"it is canarycanarycanaryc ecret") + stream.finish()
    assert shown == b"it is can***************c ecret"


def test_the_many_line_ends_of_what_is_no_key_keep_nobody_busy():
    """Tried one by one they would take longer than the time limit of a test."""
    data = b"-----BEGIN PRIVATE KEY-----\nVVVV" + b"\r" * 400 + b"VVVV AKIA"
    assert len(Masker().blank(data)) == len(data)
