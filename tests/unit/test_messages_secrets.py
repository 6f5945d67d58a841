import json
from pathlib import Path

import pytest

from studio_runner.messages.secrets import is_secret_name, mask_urls, shown_words, without_secrets

SAMPLE = Path(__file__).parents[1] / "samples" / "studioml-0.0.49-rmq-plain.json"


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "secret_key", "PASSWORD", "db_passwd", "GITHUB_TOKEN", "GITHUB_PAT",
     "api-key".replace("-", "_"), "Authorization", "credentials", "jwt", "HF_TOKEN", "passphrase", "FERNET_KEY", "SECRET_ID", "ACCOUNT_KEY", "account_key", "PUBLIC_API_KEY", "MYSQL_PWD"],
)  # fmt: skip
def test_names_of_secrets_are_known(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "key",
        "TOKENIZERS_PARALLELISM",
        "tokenizer",
        "author",
        "LANG",
        "user",
        "PWD",
        "sort_key",
        "SORT_KEY",
        "PUBLIC_KEY",
        "SECRET_NAME",
        "TOKEN_TYPE",
        "SECRETS_BACKEND",
        "API_TOKEN_TTL",
        "eos_token",
        "TOKEN_SERVICE_PORT",
    ],
)
def test_other_names_are_not(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:pass@host/x", "https://***@host/x"),
        ("git+https://token@host/x.git#egg=y", "git+https://***@host/x.git#egg=y"),
        ("see amqp://a:b@h:5672/%2f?x=1 now", "see amqp://***@h:5672/%2f?*** now"),
        ("https://host/x?X-Amz-Signature=abc&b=1", "https://host/x?***"),
        ("https://host/x?", "https://host/x?"),
        ("a https://h/?b c://d?e f", "a https://h/?*** c://d?*** f"),
        ("https://host/x@y", "https://host/x@y"),
        ("me@host.org, a?b", "me@host.org, a?b"),
        ("amqp://me:p@ss@host/x", "amqp://***@host/x"),
        ("amqp://me:p/ss@host/x", "amqp://***@host/x"),
        ("http://host:80/x@y http://[::1]:80/x@y", "http://host:80/x@y http://[::1]:80/x@y"),
        ('{"a":"http://h:80","b":"x/y@z"}', '{"a":"http://h:80","b":"x/y@z"}'),
        ("", ""),
    ],
)
def test_addresses_lose_what_opens_them(text, masked):
    assert mask_urls(text) == masked


def test_a_message_can_be_shown_without_its_secrets():
    document = json.loads(SAMPLE.read_text())
    shown = json.dumps(without_secrets(document))
    assert "AKIAIOSFODNN7" not in shown
    assert "wJalrXUtnFEMI" not in shown
    assert "guest:guest" not in shown
    assert "s3://127.0.0.1:18333/client-store/blobstore" in shown
    assert "AKIAIOSFODNN7" in json.dumps(document)


def test_numbers_and_artifacts_with_telling_names_stay():
    shown = without_secrets({"max_tokens": 512, "token": {"qualified": "s3://h/b/k"}, "password": "x"})
    assert shown == {"max_tokens": 512, "token": {"qualified": "s3://h/b/k"}, "password": "***"}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--password|x", "--password|***"),
        ("--token=x y|z", "--token=***|z"),
        ("--lr 1 --api-key x --steps 3|z", "--lr 1 --api-key ***|z"),
        ("'--api-key=x'", "'--api-key=***"),
        ("--verbose --secret|x", "--verbose --secret|***"),
        ("--token|-x-y", "--token|***"),
        ("--use-auth-token|--learning-rate|1", "--use-auth-token|--learning-rate|1"),
        ("--use-auth-token|true", "--use-auth-token|true"),
        ("--max_new_tokens|512|--max-tokens=3", "--max_new_tokens|512|--max-tokens=3"),
        ("--passphrase-file|f|--token-path=g", "--passphrase-file|f|--token-path=g"),
        ("--password|123456", "--password|***"),
        ("--token", "--token"),
    ],
)
def test_command_lines_lose_the_values_of_secret_options(words, shown):
    assert shown_words(words.split("|")) == shown.split("|")
    assert without_secrets({"args": words.split("|")}) == {"args": shown.split("|")}


def test_what_says_nothing_stays():
    harmless = {
        "MAX_TOKENS": "4096", "USE_AUTH_TOKEN": "true", "HF_TOKEN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/x",
        "pad_token_id": "0", "args": [],
    }  # fmt: skip
    assert without_secrets(harmless) == harmless
    assert without_secrets({"HF_TOKEN": "123456", "tokens": "abc"}) == {"HF_TOKEN": "***", "tokens": "***"}


def test_hostile_text_takes_no_longer_than_any_other():
    """A megabyte of it took hours."""
    text = "://a" * 250_000
    assert mask_urls(text) == text
    assert shown_words([text := "--max-tokens 1 " * 70_000]) == [text]
