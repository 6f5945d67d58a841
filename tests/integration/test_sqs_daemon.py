"""The installed runner on an SQS queue."""

import json
import uuid
from urllib.request import Request, urlopen

import boto3
import pytest

from studio_runner.testing import installation

CREDENTIALS = "[default]\naws_access_key_id = testing\naws_secret_access_key = testing\nregion = us-east-1\n"


@pytest.fixture
def client(sqs):
    urlopen(Request(f"{sqs.url}/moto-api/reset", method="POST")).close()
    client = boto3.client(
        "sqs", endpoint_url=sqs.url, region_name="us-east-1", aws_access_key_id="t", aws_secret_access_key="t"
    )
    yield client
    client.close()


def test_experiments_of_sqs_queues_are_run_and_their_messages_deleted(sqs, client):
    urls = [client.create_queue(QueueName=f"sqs_{uuid.uuid4().hex[:8]}")["QueueUrl"] for _ in range(3)]
    with installation() as place:
        (place.home / "certs").mkdir()
        (place.home / "certs" / "credentials").write_text(CREDENTIALS)
        keys = []
        for url in urls:
            for number in range(3):
                key, body = place.request(place.workspace({"main.py": f"print({number})"}))
                client.send_message(QueueUrl=url, MessageBody=body.decode())
                keys.append(key)
        client.send_message(QueueUrl=urls[0], MessageBody="this is no request")
        options = ("--sqs-certs", str(place.home / "certs"), "--sqs-endpoint", sqs.url)
        with place.daemon(*options):
            for number, key in enumerate(keys):
                assert place.wait(key).ok
                assert place.output(key).splitlines()[-1] == str(number % 3)
        for url in urls:
            found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            assert found["ApproximateNumberOfMessages"] == "0"
            assert found["ApproximateNumberOfMessagesNotVisible"] == "0"
        [name] = [url for url in client.list_queues()["QueueUrls"] if "studio-runner-dead" in url]
        [dead] = client.receive_message(QueueUrl=name, MessageAttributeNames=["All"])["Messages"]
        assert dead["Body"] == "this is no request"
        assert json.loads(dead["MessageAttributes"]["studio-runner"]["StringValue"])["reason"]
