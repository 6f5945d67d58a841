"""A short storm over the local default and over RabbitMQ and S3: nothing is lost, doubled, torn or wrong."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 600


def storm(*options):
    """What the suite printed; AssertionError when it found a fault."""
    command = [sys.executable, "-m", "faults", *options]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it puts away what it started
            said, _ = process.communicate(timeout=120)
            pytest.fail(f"the storm did not end:\n{said}")
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_local_queues_and_files():
    said = storm("--local", "--experiments", "40", "--minutes", "0.7", "--patience", "7", "--seed", "1")
    assert "left in queues: none" in said
    assert "left of attempts: none" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("needs_rabbitmq")
def test_rabbitmq_and_s3():
    said = storm("--experiments", "40", "--minutes", "1", "--patience", "7", "--seed", "1")
    assert "left in queues: none" in said
    assert "left of attempts: none" in said
