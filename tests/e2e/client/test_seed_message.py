"""The message that existing runners were written for, from RabbitMQ, with its artifacts in S3.

It is as it was sent but for addresses and credentials.
"""

import asyncio
import io
import json
import os
import tarfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import aiormq
import pytest

from studio_runner.environments.interpreters import Interpreters

SEED = Path(__file__).parents[2] / "samples" / "seed-request.json"
SCRIPT = b"""
import json, os, sys
print "epochs", sys.argv[1], "in", os.environ["AWS_DEFAULT_REGION"]
print json.dumps({"path": os.environ["PATH"].endswith(":./bin"), "python": sys.version[:3]}, sort_keys=True)
open("../modeldir/model", "w").write("trained")
"""


@pytest.fixture
def message(s3, bucket):
    """The seed's message with the addresses and credentials of this machine's servers."""
    host = f"s3://{s3.endpoint}"
    client = s3.client()
    client.create_bucket(Bucket=f"{bucket}-metadata")
    text = SEED.read_text()
    changes = {
        "http://s3-us-west-2.amazonaws.com": s3.url,
        "s3://s3-us-west-2.amazonaws.com": host,
        "kmutch-metadata": f"{bucket}-metadata",
        "kmutch-rmq": bucket,
        "AKZAIE5G7Q2GZC3OMTYW": s3.access_key,
        "rt43wqJ/w5aqAPat659gkkYpphnOFxXejsCBq": s3.secret_key,
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    document = json.loads(text)
    workspace = document["experiment"]["artifacts"]["workspace"]["key"]
    client.put_object(Bucket=bucket, Key=workspace, Body=archive("train_cifar10.py", SCRIPT))
    return document


@pytest.fixture
def publish(rabbitmq, vhost, queue):
    """Send a message as existing clients do."""

    async def send(document):
        connection = await aiormq.connect(rabbitmq.url(vhost))
        channel = await connection.channel()
        await channel.exchange_declare("StudioML.topic", exchange_type="topic", durable=True, auto_delete=True)
        await channel.queue_declare(queue)
        await channel.queue_bind(queue, "StudioML.topic", routing_key=f"StudioML.{queue}")
        properties = aiormq.spec.Basic.Properties(content_type="application/json", app_id="studioml")
        body = json.dumps(document).encode()
        await channel.basic_publish(
            body, exchange="StudioML.topic", routing_key=f"StudioML.{queue}", properties=properties
        )
        await connection.close()

    return send


@pytest.fixture
def over(s3, bucket, runner):
    """The experiment's record in the sender's database, once the experiment is over."""

    async def wait(key):
        deadline = time.monotonic() + 120
        while True:
            await asyncio.to_thread(runner.ended, key)
            found = s3.client().list_objects_v2(Bucket=f"{bucket}-metadata", Prefix=f"experiments/{key}")
            if "Contents" in found:
                record = json.loads(stored(s3, f"{bucket}-metadata", f"experiments/{key}"))
                if record["status"] == "finished":
                    return record
            assert time.monotonic() < deadline, runner.log()
            await asyncio.sleep(0.1)

    return wait


@pytest.fixture
def contents(s3, bucket):
    """What is in a stored artifact, by name."""

    def look(artifact):
        body = stored(s3, bucket, urlsplit(artifact["qualified"]).path.removeprefix(f"/{bucket}/"))
        with tarfile.open(fileobj=io.BytesIO(body)) as opened:
            return {member.name: opened.extractfile(member).read() for member in opened}

    return look


@pytest.fixture
async def python_2(tmp_path):
    found = await Interpreters(tmp_path / "interpreters.json", os.environ).all()
    if not any(python.version.startswith("2.7.") for python in found):
        complaint = "NOT TESTED: there is no Python 2.7 on this machine"
        pytest.fail(complaint) if os.environ.get("CI") else pytest.skip(complaint)


def archive(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def stored(s3, bucket, key):
    return s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()


async def test_as_it_was_sent_its_lifetime_is_long_over(message, publish, over, runner, until):
    await publish(message)
    record = await over(message["experiment"]["key"])
    assert record["studio_runner"]["reason"] == "expired"
    await asyncio.to_thread(until, lambda: not runner.leftovers())
    assert not runner.dead_letters()


@pytest.mark.network
@pytest.mark.usefixtures("python_2")
async def test_sent_today_it_runs(message, publish, over, runner, contents):
    """Its packages are those of 2018 and of a repository; what is asked for here can still be installed."""
    experiment = message["experiment"]
    experiment["time_added"] = time.time()
    kept = ("six", "Python", "wsgiref", "argparse")
    experiment["pythonenv"] = [line for line in experiment["pythonenv"] if line.split("==")[0] in kept]
    await publish(message)
    record = await over(experiment["key"])
    assert record["studio_runner"]["reason"] == "completed", record["studio_runner"]["sentence"]
    assert record["owner"] == "guest"
    assert contents(experiment["artifacts"]["modeldir"]) == {"model": b"trained"}
    output = contents(experiment["artifacts"]["output"])["output"].decode()
    assert "epochs 10 in us-west-2\n" in output
    assert '{"path": true, "python": "2.7"}\n' in output
    secret = message["config"]["env"]["AWS_SECRET_ACCESS_KEY"]
    assert secret not in output + runner.log() + json.dumps(record)
