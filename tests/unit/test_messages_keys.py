"""Keys in every format that people have them in, and what is said of everything else."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from studio_runner.errors import KeyFileError
from studio_runner.messages import keys as formats
from studio_runner.messages.keys import (
    OpeningKey,
    SealingKey,
    SigningKey,
    VerifyKey,
    private_text,
    public_text,
    read_key,
    read_opening_key,
    read_sealing_key,
    read_signing_key,
    read_verify_keys,
)

PASSPHRASE = b"throw-away"


@pytest.fixture
def read(keys):
    return lambda name: (keys / name).read_bytes()


PRIVATE = (
    "runner",
    "runner-pkcs1-encrypted",
    "runner-pkcs8",
    "runner-pkcs8-encrypted",
    "runner-openssh",
    "runner-openssh-encrypted",
)
PUBLIC = ("runner.pub", "runner-public-pkcs1.pem", "runner-public-spki.pem")


@pytest.mark.parametrize("name", PRIVATE)
def test_every_private_format_gives_the_same_key(read, name):
    key = read_opening_key(read(name), PASSPHRASE)

    assert key.unwrap(read_sealing_key(read("runner.pub")).wrap(b"k" * 32)) == b"k" * 32


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_format_gives_the_same_key(read, name):
    assert read_sealing_key(read(name)).fingerprint == read_opening_key(read("runner")).public.fingerprint


@pytest.mark.parametrize("name", ["sender", "sender-encrypted"])
def test_a_signing_key_signs_what_its_public_half_verifies(read, name):
    key = read_signing_key(read(name), PASSPHRASE)

    assert key.public.verifies(key.sign(b"text"), b"text")
    assert not key.public.verifies(key.sign(b"text"), b"test")


def test_a_passphrase_that_is_not_needed_does_no_harm(read):
    assert read_opening_key(read("runner"), b"anything").public.bits == 4096


@pytest.mark.parametrize(
    ("name", "passphrase", "words"),
    [
        ("runner-pkcs1-encrypted", None, "it is encrypted, and there is no passphrase"),
        ("runner-pkcs8-encrypted", None, "it is encrypted, and there is no passphrase"),
        ("runner-openssh-encrypted", None, "it is encrypted, and there is no passphrase"),
        ("runner-pkcs1-encrypted", b"wrong", "or the passphrase is another"),
        ("runner-pkcs8-encrypted", b"wrong", "or the passphrase is another"),
        ("runner-openssh-encrypted", b"wrong", "or the passphrase is another"),
        ("short", None, "2048 bits, accepted are 4096 to 16384"),
        ("ecdsa", None, "neither an RSA nor an Ed25519 key"),
        (
            "sender",
            None,
            "it is an Ed25519 key with its private half, accepted is an RSA key with its private half",
        ),
        ("runner.pub", None, "it is the public half of an RSA key, accepted is an RSA key with its private half"),
    ],
)
def test_what_is_no_key_for_opening_is_told(read, name, passphrase, words):
    with pytest.raises(KeyFileError, match=words):
        read_opening_key(read(name), passphrase)


def test_a_key_that_nothing_can_be_sealed_with_is_none(read):
    modulus = read_sealing_key(read("runner.pub")).rsa.public_numbers().n
    key = RSAPublicNumbers(2**64 + 1, modulus).public_key()

    with pytest.raises(KeyFileError, match="exponent has more than 64 bits"):
        read_sealing_key(public_text(SealingKey(key)))


@pytest.mark.parametrize("cut", [0, 1, 40, 400, 2000, 3200])
def test_half_a_private_key_is_none(read, cut):
    with pytest.raises(KeyFileError):
        read_opening_key(read("runner")[:cut])


def line(kind, *fields):
    parts = (kind, *fields)
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return kind + b" " + base64.b64encode(blob) + b" somebody\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (line(b"ssh-ed25519", bytes(32)), "belongs to everybody or to nobody"),
        (line(b"ssh-ed25519", b"\1" + bytes(31)), "belongs to everybody or to nobody"),
        (line(b"ssh-ed25519", b"\2" + bytes(31)), "belongs to everybody or to nobody"),
        (line(b"sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:"), "of the kind sk-ssh-ed25519@openssh.com"),
        (line(b"ecdsa-sha2-nistp256", b"nistp256", b"\2" + bytes(32)), "no public key that can be read"),
        (line(b"ssh-ed25519-cert-v01@openssh.com"), "of the kind ssh-ed25519-cert-v01@openssh.com"),
        (b"", "it is empty"),
        (b"\n# nobody yet\n", "it is empty"),
        (b"ssh-ed25519\n", "no public key that can be read"),
        (b"ssh-ed25519 AAAA\n", "no public key that can be read"),
        (b"\xff\xfe", "no public key that can be read"),
    ],
)
def test_what_is_no_sender_is_told(content, words):
    with pytest.raises(KeyFileError, match=words):
        read_verify_keys(content)


def test_a_senders_private_half_is_called_that(read):
    with pytest.raises(KeyFileError, match="it is an Ed25519 key with its private half"):
        read_verify_keys(read("sender"))


@pytest.mark.parametrize("change", [lambda c: b"\xef\xbb\xbf" + c, lambda c: c.replace(b"\n", b"\r\n")])
def test_what_an_editor_of_another_system_adds_does_no_harm(read, change):
    (key,) = read_verify_keys(change(read("sender.pub")))

    assert key.fingerprint == read_key(read("sender.pub")).fingerprint


def test_a_file_of_senders_may_name_two_while_one_is_replaced(read):
    content = b"# until spring\n" + read("sender.pub") + b"\n" + read("other-sender.pub")

    assert len({key.fingerprint for key in read_verify_keys(content)}) == 2


@pytest.mark.parametrize("name", ["runner.pub", "ecdsa.pub", "sender", "runner-public-pkcs1.pem"])
def test_only_ed25519_lines_name_senders(read, name):
    with pytest.raises(KeyFileError):
        read_verify_keys(read(name))


def test_every_half_of_a_line_names_nobody(read):
    line = read("sender.pub").split(b" sender")[0]
    for end in range(1, len(line)):
        with pytest.raises(KeyFileError):
            read_verify_keys(line[:end])


@pytest.mark.parametrize(("name", "kind"), [("sender", SigningKey), ("sender.pub", VerifyKey), ("runner", OpeningKey), ("runner.pub", SealingKey)])  # fmt: skip
def test_a_key_is_told_by_its_content(read, name, kind):
    assert isinstance(read_key(read(name)), kind)


@pytest.mark.parametrize("passphrase", [None, b"other"])
def test_what_is_written_is_read_again(read, passphrase):
    signing, opening = read_signing_key(read("sender")), read_opening_key(read("runner"))

    again = read_signing_key(private_text(signing, passphrase), passphrase)
    assert public_text(again.public, "sender") == read("sender.pub")
    again = read_opening_key(private_text(opening, passphrase), passphrase)
    assert public_text(again.public) == read("runner-public-pkcs1.pem")


def test_what_was_wrapped_for_another_key_gives_a_session_key_like_any_other(read):
    key = read_opening_key(read("runner"))
    wrapped = read_opening_key(read("other-runner")).public.wrap(b"k" * formats.SESSION_KEY)

    found = key.unwrap(wrapped)

    assert len(found) == formats.SESSION_KEY
    assert found != key.unwrap(wrapped)
