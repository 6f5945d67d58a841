"""The fault suite notices the faults that it is there for, and repeats a storm from its seed."""

import io
import json
import tarfile

import pytest

from faults.audit import Audit
from faults.experiment import LABELS, Experiment, experiments, stored
from faults.plan import TROUBLES, Target, plan
from faults.program import train
from faults.watch import Watch, record_name

TARGETS = {target: [f"{target}-{number}" for number in range(2)] for target in Target}


def test_a_storm_is_the_same_for_the_same_seed():
    assert plan(7, 300, TARGETS, 5) == plan(7, 300, TARGETS, 5)
    assert plan(7, 300, TARGETS, 5) != plan(8, 300, TARGETS, 5)
    assert list(experiments(30, ["a", "b"], 7)) == list(experiments(30, ["a", "b"], 7))


def test_a_storm_has_every_trouble_that_is_possible():
    assert {strike.trouble for strike in plan(1, 300, TARGETS, 5)} == set(TROUBLES)
    without = {**TARGETS, Target.DISK: []}
    assert {one.trouble for one in plan(1, 300, without, 5)} == {
        one for one in TROUBLES if one.target != Target.DISK
    }


def test_a_target_has_one_trouble_at_a_time():
    until = {}
    for strike in plan(3, 1000, TARGETS, 3):
        assert strike.at >= until.get(strike.target, 0)
        until[strike.target] = strike.at + strike.seconds


class Memory:
    """Objects of a store."""

    def __init__(self):
        self.content = {}

    def versions(self):
        return {name: str(hash(content)) for name, content in self.content.items()}

    def read(self, name):
        return self.content[name]

    def write(self, name, content):
        self.content[name] = content


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Stage:
    """One experiment that went well, to be spoiled."""

    def __init__(self, logs, kind="quick"):
        self.objects, self.logs = Memory(), logs
        self.experiment = Experiment("key", kind, 5, "queue", with_results=True)
        self.watch = Watch(self.objects, [self.experiment])
        self.killed = []
        self.execute("one")
        self.end()

    def execute(self, token):
        """Leave what an execution leaves."""
        with (self.logs / "key").open("a") as log:
            log.write(f"start {token} 1\nend {token} 2\n")
        result = self.experiment.result
        written = json.dumps({"token": token, "result": result}).encode()
        self.put("output", output=f"token {token}\nresult {result} {token}\n".encode())
        self.put("modeldir", result__json=written, weights__bin=train.payload(token))
        self.put("retval", result__json=written)

    def end(self, reason="completed", exit_code=0, **more):
        own = {"reason": reason, "exit_code": exit_code, **more}
        self.put("_results", _results__json=json.dumps(own).encode())
        record = {"status": "finished", "time_finished": 1.0, "studio_runner": own}
        self.objects.write(record_name("key"), json.dumps(record).encode())
        self.watch.look()

    def put(self, label, **files):
        self.objects.write(stored("key", label), archive(**files))

    def faults(self):
        return set(Audit(self.objects, self.watch, self.logs, self.killed).judge(self.experiment).faults)


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_what_went_well_is_no_fault(stage):
    assert stage.faults() == set()
    assert stage.watch.over(stage.experiment)


def test_an_experiment_without_results_is_lost(stage):
    del stage.objects.content[stored("key", "_results")]
    stage.watch.look()
    assert "lost" in stage.faults()


def test_an_experiment_whose_record_never_ends_is_lost(tmp_path):
    stage = Stage(tmp_path)
    stage.watch = Watch(stage.objects, [stage.experiment])
    running = {"status": "running", "studio_runner": {}}
    stage.objects.write(record_name("key"), json.dumps(running).encode())
    stage.watch.look()
    assert stage.faults() == {"lost"}
    assert not stage.watch.over(stage.experiment)


def test_a_second_result_is_a_duplicate(stage):
    stage.end(attempt=2)
    assert stage.faults() == {"duplicated"}


def test_results_that_were_away_in_between_are_a_duplicate(stage):
    kept = stage.objects.content.pop(stored("key", "_results"))
    stage.watch.look()
    stage.objects.write(stored("key", "_results"), kept)
    stage.watch.look()
    assert stage.faults() == {"duplicated"}


@pytest.mark.parametrize("label", ["output", "modeldir", "retval"])
def test_parts_of_two_executions_are_torn(stage, label):
    kept = stage.objects.content[stored("key", label)]
    stage.execute("two")
    assert stage.faults() == set()
    stage.objects.write(stored("key", label), kept)
    assert stage.faults() == {"torn"}


def test_weights_of_another_execution_are_torn(tmp_path):
    stage = Stage(tmp_path, kind="large")
    assert stage.faults() == set()
    written = json.dumps({"token": "one", "result": stage.experiment.result}).encode()
    stage.put("modeldir", result__json=written, weights__bin=train.payload("two"))
    assert stage.faults() == {"torn"}


@pytest.mark.parametrize("label", ["output", "modeldir", "retval"])
def test_half_an_archive_is_torn(stage, label):
    whole = stage.objects.content[stored("key", label)]
    stage.objects.write(stored("key", label), whole[:700])
    assert stage.faults() == {"torn"}


@pytest.mark.parametrize("label", ["output", "modeldir", "retval"])
def test_a_missing_artifact_is_torn(stage, label):
    del stage.objects.content[stored("key", label)]
    assert stage.faults() == {"torn"}


def test_another_result_is_wrong(stage):
    stage.put("retval", result__json=json.dumps({"token": "one", "result": "another"}).encode())
    assert stage.faults() == {"wrong"}


def test_another_end_is_wrong(tmp_path):
    stage = Stage(tmp_path)
    stage.watch = Watch(stage.objects, [stage.experiment])
    stage.end("storage_unavailable", None)
    assert stage.faults() == {"wrong"}


def test_a_script_that_the_storm_killed_may_have_failed_of_it(tmp_path):
    stage = Stage(tmp_path)
    stage.watch = Watch(stage.objects, [stage.experiment])
    stage.end("script_failed", None, signal=9)
    assert stage.faults() == {"wrong"}
    stage.killed = ["key"]
    assert stage.faults() == set()


def test_an_execution_that_was_cut_short_is_wrong(stage):
    (stage.logs / "key").write_text("start one 1\n")
    assert stage.faults() == {"wrong"}


def test_every_label_of_a_message_is_stored_under_the_key():
    assert {stored("key", label) for label in LABELS} == {f"experiments/key/{label}.tar" for label in LABELS}
