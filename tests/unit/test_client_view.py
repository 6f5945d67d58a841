import pytest

from studio_runner.client.view import Details
from studio_runner.reports.records import Record


@pytest.mark.parametrize(
    "document",
    [
        {"pythonenv": 5, "args": {"a": 1}, "filename": [1]},
        {"resources_needed": [1]},
        {"resources_needed": "much"},
        {"time_added": 1e300, "time_started": float("nan"), "time_finished": float("inf")},
        {"studio_runner": {"peak_memory": "x", "cpu_seconds": "y", "exit_code": "z"}},
        {"studio_runner": 7, "status": {}, "project": []},
    ],
)
def test_a_record_of_a_sender_who_writes_odd_things_can_be_shown(document):
    fields = Details(Record("k", document), []).fields(now=10.0)
    assert fields["key"] == "k"
    assert all(isinstance(value, str) for value in fields.values())


def test_what_is_known_is_shown():
    own = {"reason": "completed", "exit_code": 0, "peak_memory": 2_500_000, "cpu_seconds": 1.5}
    document = {
        "pythonenv": ["six"],
        "resources_needed": {"cpus": 2, "ram": "3gb", "gpus": 0},
        "studio_runner": own,
    }
    fields = Details(Record("k", document), []).fields(now=10.0)
    assert fields["requirements"] == "1"
    assert fields["resources"] == "cpus 2, ram 3gb"
    assert fields["exit"] == "code 0"
    assert (fields["peak memory"], fields["cpu time"]) == ("2.5 MB", "1.5s")
