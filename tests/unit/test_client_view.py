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
        {"time_added": 10**400, "time_started": -(10**400)},
        {"studio_runner": {"peak_memory": 10**400, "cpu_seconds": float("inf")}},
        {"studio_runner": {"attempts": [{"started": 10**400, "reserved": {"memory": 10**400, "disk": True}}]}},
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


def test_who_waits_for_a_runner_is_told_where_to_read_on_until_one_has_told_of_it():
    def what_happened(status, **own):
        document = {"status": status, "studio_runner": own}
        return Details(Record("k", document), []).fields(now=10.0).get("what happened")

    assert "follow-and-stop.md" in what_happened("waiting", queue="local_a")
    assert "follow-and-stop.md" in what_happened("stopped", queue="local_a")  # somebody asked for it
    assert what_happened("waiting", attempts=[{"number": 1}], sentence="The disk is full.") == "The disk is full."
    assert what_happened("running", attempts=[{"number": 1}]) is None
    assert what_happened("waiting", attempts=[{"number": 1}]) is None


def reserved(share):
    own = {"attempts": [{"number": 1, "reserved": share}]}
    return Details(Record("k", {"studio_runner": own}), []).fields(now=10.0).get("reserved")


def test_what_the_last_attempt_had_of_its_machine_is_shown():
    card = {"uuid": "GPU-1", "name": "Tesla T4"}
    share = {"cores": 2, "memory": 3 * 10**9, "disk": 0, "gpus": [card, {**card, "uuid": "GPU-2"}]}
    assert reserved(share) == "2 cores, 3 GB memory, Tesla T4 (GPU-1), Tesla T4 (GPU-2)"
    assert reserved({"cores": 1, "gpus": [card], "gpu_fraction": 4}) == "1 core, 1/4 of Tesla T4 (GPU-1)"


@pytest.mark.parametrize("share", ["much", {"gpus": 7}, {"gpus": ["x"]}, {"memory": "x", "gpus": None}, [1]])
def test_a_share_that_somebody_else_wrote_can_be_shown(share):
    assert isinstance(reserved(share), str | None)
