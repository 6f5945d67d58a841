"""The request message that the front end writes."""

import json
import re
import time
from pathlib import Path

import pytest

from studio_runner.client.artifacts import blob, mutable, results
from studio_runner.client.request import Draft, entry_point, message, new_key, script_path
from studio_runner.client.rerun import request_again
from studio_runner.client.stores import stores_of
from studio_runner.client.submit import read_back
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import UsageError
from studio_runner.messages.arguments import script_arguments
from studio_runner.reports.records import Record, without_credentials

STORES = stores_of(StudioConfig(), Path("/store"))


def drafted(**changes):
    fields = {
        "key": "1700000000_abc",
        "filename": "train.py",
        "args": ("--lr=0.1", "a b", "it's"),
        "python": "3.11",
        "requirements": ("numpy==2.0.0",),
        "artifacts": {
            "workspace": blob(STORES, "0" * 64),
            **results(STORES, "1700000000_abc"),
        },
    }
    return Draft(**{**fields, **changes})


def test_the_runner_reads_what_was_meant():
    request = read_back(message(drafted(), StudioConfig(), STORES))
    assert request.key == "1700000000_abc"
    assert request.experiment.filename == "train.py"
    assert script_arguments(request.experiment.args) == ("--lr=0.1", "a b", "it's")
    assert request.pythonver == "3.11"
    assert set(request.artifacts) == {
        "workspace", "modeldir", "retval", "output", "tb", "_metrics", "_metadata", "_results", "_status",
    }  # fmt: skip
    assert request.artifacts["output"].location.key == "/store/experiments/1700000000_abc/output.tar"


def test_arguments_are_quoted_as_existing_clients_quote_them():
    assert message(drafted(), StudioConfig(), STORES)["experiment"]["args"] == ["--lr=0.1", "'a b'", "'it'\"'\"'s'"]


def test_a_module_is_run_as_one():
    assert entry_point("pkg.sub::train") == ("-m", ("pkg.sub.train",))
    assert entry_point("::train") == ("-m", ("train",))
    experiment = message(drafted(filename="pkg::train", args=("x",)), StudioConfig(), STORES)["experiment"]
    assert experiment["filename"] == "-m"
    assert experiment["args"] == ["pkg.train", "x"]


def test_the_file_of_a_module(tmp_path):
    assert script_path("train.py", tmp_path) == "train.py"
    assert script_path("pkg::train", tmp_path) == "pkg/train.py"
    (tmp_path / "pkg" / "train").mkdir(parents=True)
    (tmp_path / "pkg" / "train" / "__main__.py").touch()
    assert script_path("pkg::train", tmp_path) == "pkg/train/__main__.py"


def test_options_win_over_the_configuration():
    config = StudioConfig(resources_needed={"cpus": 2, "ram": "3g", "hdd": "10g"})
    draft = drafted(resources={"cpus": 4, "ram": None, "gpuMem": "4gb"})
    assert message(draft, config, STORES)["experiment"]["resources_needed"] == {
        "cpus": 4, "ram": "3g", "hdd": "10g", "gpuMem": "4gb",
    }  # fmt: skip


def test_the_configuration_goes_along_with_the_places_that_are_used():
    config = StudioConfig(document={"env": {"A": "1"}, "pip": ["six"], "storage": None})
    sent = message(drafted(lifetime="4h"), config, STORES)["config"]
    assert sent["env"] == {"A": "1"}
    assert sent["pip"] == ["six"]
    assert sent["storage"] == {"type": "local", "endpoint": "/", "bucket": "store"}
    assert sent["experimentLifetime"] == "4h"


def test_a_key_is_seconds_and_a_uuid():
    assert re.fullmatch(r"\d{10}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", new_key())


def test_what_no_runner_would_take_is_refused_before_it_is_queued():
    with pytest.raises(UsageError, match=r"\$\.experiment\.pythonver"):
        read_back(message(drafted(python="abc"), StudioConfig(), STORES))


def record_of(request, **own):
    document = without_credentials({**request["experiment"], "studio_runner": own})
    return Record(document["key"], document)


def test_a_rerun_is_the_same_request_under_a_new_key():
    first = message(drafted(max_duration="20m"), StudioConfig(), STORES)
    first["experiment"] |= {"status": "finished", "time_started": 1.0, "time_finished": 2.0}
    record = record_of(first, reason="completed", config={"saveWorkspaceFrequency": "3m"})
    before = time.time()
    second = json.loads(read_back(request_again(record, None, StudioConfig(), STORES)).to_json())
    experiment = second["experiment"]
    key = experiment["key"]
    assert key != "1700000000_abc"
    assert experiment["status"] == "waiting"
    assert experiment["time_started"] is None
    assert experiment["time_finished"] is None
    assert experiment["time_added"] >= before
    assert "studio_runner" not in experiment
    assert experiment["artifacts"]["tb"] == mutable(STORES, key, "tb")
    assert second["config"]["saveWorkspaceFrequency"] == "3m"
    for name in ("filename", "args", "pythonenv", "pythonver", "max_duration"):
        assert experiment[name] == first["experiment"][name]


def test_a_rerun_without_its_credential_is_refused():
    draft = drafted(requirements=("git+https://user:token@host/repo",))
    record = record_of(message(draft, StudioConfig(), STORES))
    with pytest.raises(UsageError, match="credential"):
        request_again(record, None, StudioConfig(), STORES)
