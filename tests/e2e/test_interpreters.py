"""Every Python that experiments ask for, and the message that started it all."""

import json
import os
import time
from pathlib import Path

import pytest

from studio_runner.environments.interpreters import Interpreters
from studio_runner.testing import installation

pytestmark = [pytest.mark.usefixtures("all_is_well"), pytest.mark.network]

SEED = Path(__file__).parents[1] / "samples" / "seed-request.json"
# Runs under each of them.
SCRIPT = """
from __future__ import print_function
import json, os, sys
import six
with open("../modeldir/model", "w") as model:
    model.write("trained")
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "six": six.__version__, "args": sys.argv[1:]}))
"""
PYTHON_2_SCRIPT = """
import os, sys, six
print "Python", sys.version.split()[0], "six", six.__version__, "epochs", sys.argv[1]
print >>sys.stderr, "region", os.environ["AWS_DEFAULT_REGION"]
open("../modeldir/model", "w").write(u"tr\\u00e4ned".encode("utf8"))
"""


@pytest.fixture(scope="module")
def place(cache):
    with installation(cache) as made, made.daemon("--cpu-only"):
        yield made


@pytest.fixture
def require(tmp_path):
    """This machine has an interpreter of the version."""

    async def look(version):
        found = await Interpreters(tmp_path / "interpreters.json", os.environ).all()
        if not any(python.version.startswith(f"{version}.") for python in found):
            complaint = f"NOT TESTED: there is no Python {version} on this machine"
            pytest.fail(complaint) if os.environ.get("CI") else pytest.skip(complaint)

    return look


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8", "3.11", "3.13"])
async def test_an_experiment_gets_the_python_it_asks_for_with_its_packages(place, told, require, version):
    await require(version)
    key = place.submit({"main.py": SCRIPT}, pythonver=version, pythonenv=["six==1.16.0"], args=["--rate", "'0 1'"])
    told(key, "completed")
    said = json.loads(place.output(key).splitlines()[-1])
    assert said == {"python": version, "six": "1.16.0", "args": ["--rate", "0 1"]}
    assert place.files(key, "modeldir") == {"model": b"trained"}
    (path,) = (place.store / "experiments" / key / "metadata").iterdir()
    packages = {
        entry["package"]: entry["version"] for entry in json.loads(path.read_bytes())["studioml"]["pipdeptree"]
    }
    assert packages["six"] == "1.16.0"


async def test_the_seed_message_runs_under_python_2(place, told, require):
    """As existing clients sent it in 2018, but for where its artifacts are, how long it lives and its packages."""
    await require("2.7")
    message = json.loads(SEED.read_bytes())
    experiment = message["experiment"]
    assert experiment["pythonver"] == 2
    key = experiment["key"]
    for label, entry in experiment["artifacts"].items():
        entry["qualified"] = f"file://{place.stored(key, label)}"
    workspace = place.workspace({experiment["filename"]: PYTHON_2_SCRIPT})
    experiment["artifacts"]["workspace"]["qualified"] = f"file://{workspace}"
    experiment["artifacts"]["_results"] = {
        "qualified": f"file://{place.stored(key, '_results')}",
        "mutable": True,
        "unpack": True,
    }
    experiment["time_added"] = time.time()
    experiment["pythonenv"] = ["six==1.11.0", "Python==2.7.12", "wsgiref==0.1.2", "argparse==1.2.1"]
    place.publish(json.dumps(message).encode())
    told(key, "completed")
    output = place.output(key)
    assert "six 1.11.0 epochs 10\n" in output
    assert "Python 2.7." in output
    assert "region us-west-2\n" in output
    assert place.files(key, "modeldir") == {"model": "träned".encode()}
    record = place.record(key)
    assert (record["status"], record["owner"]) == ("finished", "guest")
    assert "rt43wqJ" not in output + place.log() + json.dumps(record)
