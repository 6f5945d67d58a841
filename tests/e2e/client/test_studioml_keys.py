"""Keys that `studio-runner keys` makes, in the hands of the client's own libraries, and the other way round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from studio_runner.client.sealing import Sealer
from studio_runner.config.keys.files import OpeningKeyFile
from studio_runner.messages.envelope import envelope_in
from studio_runner.messages.keys import read_sealing_key, read_signing_key, read_verify_keys
from studio_runner.messages.request import parse_request

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

COMMAND = Path(sys.executable).parent / "studio-runner"
PROGRAM = Path(__file__).parent / "programs" / "envelope.py"
SAMPLE = Path(__file__).parents[2] / "samples" / "studioml-0.0.49-rmq-plain.json"


@pytest.fixture(params=["with a passphrase", "without"])
def made(request, tmp_path):
    """The place of the keys; `enc` is the runner's, `key` the sender's."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("throw away")
    passphrase.chmod(0o600)
    words = ["--passphrase-file", passphrase] if request.param == "with a passphrase" else []
    for arguments in (["signing", tmp_path / "key"], ["encryption", tmp_path / "enc", *words]):
        subprocess.run([COMMAND, "keys", "make", *arguments], check=True, capture_output=True, timeout=60)
    return tmp_path


@pytest.fixture
def program(client):
    """Run it with the client's Python: text in, text out."""

    def run(text, *words):
        python = client.environment / "bin" / "python"
        done = subprocess.run(
            [python, PROGRAM, *words], check=False, input=text, capture_output=True, text=True,
            timeout=60, env=client.variables,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_client_seals_and_signs_with_them(made, program):
    sealed = program("the request", "seal", made / "enc/encryption/ssh-publickey", made / "key")

    envelope = envelope_in(json.loads(sealed))
    assert envelope.verified(read_verify_keys((made / "key.pub").read_bytes()))
    assert envelope.opened(OpeningKeyFile(made / "enc").key()) == b"the request"


def test_the_clients_libraries_open_what_our_front_end_seals(made, program):
    request = parse_request(SAMPLE.read_bytes())
    key = read_sealing_key((made / "enc/encryption/ssh-publickey").read_bytes())
    body = Sealer(key, read_signing_key((made / "key").read_bytes()))(request).body

    words = (made / "enc/encryption/ssh-privatekey", "throw away", made / "key.pub")
    opened = program(body.decode(), "open", *words)

    assert json.loads(opened) == request.document
