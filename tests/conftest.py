"""What holds for every test, and the servers of those that ask for one: each is started once."""

import os
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import settings

from servers.apptainer import make_sandbox, make_sif, make_small_sandbox, mounter, runtime
from servers.moto import MotoSQS
from servers.process import MissingServerError
from servers.rabbitmq import RabbitMQ, installed
from servers.registry import Registry
from servers.seaweedfs import SeaweedS3

# How long one example takes says more about what else this machine does than about the code.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

KEYS = Path(__file__).parent / "keys"
PASSPHRASE = b"throw-away"

EARLY = pytest.StashKey[RabbitMQ]()


def missing(error):
    """Skip on a laptop, say so; in continuous integration nothing may be missing."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"CI needs every server: {error}", pytrace=False)
    pytest.skip(f"SERVER MISSING: {error}")


def pytest_collection_finish(session):
    """RabbitMQ takes its time: whoever needs it finds it started long before."""
    if session.config.option.collectonly:
        return
    if any("rabbitmq" in getattr(item, "fixturenames", ()) for item in session.items):
        try:
            node = RabbitMQ()
        except MissingServerError:
            return
        node.launch()
        session.config.stash[EARLY] = node


def pytest_unconfigure(config):
    node = config.stash.get(EARLY, None)
    if node is not None:
        node.close()


@pytest.fixture(autouse=True)
def _same_umask():
    """Commands that are called in this process set theirs."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def rabbitmq(request):
    """A RabbitMQ node with its management plugin. Whoever stops it starts it again."""
    stash = request.config.stash
    if EARLY not in stash:  # asked for by name, when the test already ran
        try:
            stash[EARLY] = RabbitMQ()
        except MissingServerError as error:
            missing(error)
        stash[EARLY].launch()
    stash[EARLY].wait()
    return stash[EARLY]


@pytest.fixture(scope="session")
def needs_rabbitmq():
    """For tests that start a node of their own."""
    try:
        installed()
    except MissingServerError as error:
        missing(error)


@pytest.fixture
def vhost(rabbitmq):
    """The name of a virtual host without any queue."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    rabbitmq.add_vhost(name)
    yield name
    rabbitmq.remove_vhost(name)


@pytest.fixture(scope="session")
def s3():
    """An S3 endpoint. Whoever stops it starts it again."""
    try:
        server = SeaweedS3()
    except MissingServerError as error:
        missing(error)
    with server:
        yield server


@pytest.fixture
def bucket(s3):
    """The name of an empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(name)
    return name


@pytest.fixture(scope="session")
def sqs():
    """A server that speaks SQS."""
    try:
        server = MotoSQS()
    except MissingServerError as error:
        missing(error)
    with server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, and certificates of a server on loopback and of a client."""
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority",
            "-keyout", "ca.key", "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name in ("server", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.csr")  # fmt: skip
        (directory / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "ext", "-out", f"{name}.pem")  # fmt: skip
    return directory


@pytest.fixture(scope="session")
def apptainer():
    """The program that runs containers, apptainer or singularity."""
    try:
        return runtime()
    except MissingServerError as error:
        missing(error)


@pytest.fixture(scope="session")
def squashfuse():
    """The program that mounts images for ordinary users."""
    try:
        return mounter()
    except MissingServerError as error:
        missing(error)


@pytest.fixture(scope="session")
def image_place():
    """A directory that every account can read: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="studio-runner-images-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        yield directory


@pytest.fixture(scope="session")
def image_sandbox(image_place):
    """A small image as a directory: a shell, a few tools, Python. Not to be changed."""
    return make_sandbox(image_place / "box")


@pytest.fixture(scope="session")
def image_sif(apptainer, image_sandbox, image_place):
    """The same image as a SIF file."""
    try:
        return make_sif(image_sandbox, image_place / "box.sif")
    except MissingServerError as error:
        missing(error)


@pytest.fixture(scope="session")
def small_sandbox(image_place):
    """A very small image as a directory, without Python. Not to be changed."""
    return make_small_sandbox(image_place / "small")


@pytest.fixture(scope="session")
def small_sif(apptainer, small_sandbox, image_place):
    """The same as a SIF file."""
    try:
        return make_sif(small_sandbox, image_place / "small.sif")
    except MissingServerError as error:
        missing(error)


@pytest.fixture(scope="session")
def registry_content(small_sandbox, small_sif):
    """The very small image, as `docker://HOST/team/box:1` and `oras://HOST/team/sif:1`."""
    registry = Registry()
    registry.add_image("team/box", "1", small_sandbox)
    registry.add_sif("team/sif", "1", small_sif)
    return registry.content


@pytest.fixture
def registry(registry_content):
    """A registry of images. Whoever closes it starts it again."""
    with Registry(registry_content.copy()) as server:
        yield server


@pytest.fixture
def keys(tmp_path):
    """Copies of the keys in `tests/keys`, with the modes that keys have: git keeps none."""
    place = tmp_path / "keys"
    place.mkdir(mode=0o700)
    for path in KEYS.iterdir():
        copy = place / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644 if path.suffix else 0o600)
    return place
