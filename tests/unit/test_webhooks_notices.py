"""What people and programs elsewhere are told."""

import json

import pytest

from studio_runner.config.settings import HttpSettings
from studio_runner.errors import Reason
from studio_runner.reports.base import Checkpointed, Ended, StageEntered, Started, Subject
from studio_runner.reports.notices import Notice
from studio_runner.reports.opening import dashboard_address


def subject(number=1, **experiment):
    fields = {
        "key": "digits-1",
        "project": "digits",
        "author": "ann",
        "owner": "<no value>",
        "args": ["--password=hunter2"],
        "artifacts": {"a": {"credentials": {"aws": {"secret_access_key": "hunter2"}}}},
        **experiment,
    }
    return Subject(
        key=fields["key"], experiment=fields, queue="rmq_gpu", number=number, host="trainer-7", directory=None
    )


def ended(reason=Reason.COMPLETED, *, sentence="The script ran to its end.", final=True, started=100.0, about=None):
    return Ended(about or subject(), 190.5, reason, sentence, 0, None, final, 1, 1.0, started)


def test_the_start_for_programs():
    assert Notice.of(Started(subject(), 100.0)).document() == {
        "event": "started",
        "time": "1970-01-01T00:01:40.000+00:00",
        "experiment": {
            "key": "digits-1",
            "project": "digits",
            "owner": "ann",
            "queue": "rmq_gpu",
            "attempt": 1,
            "host": "trainer-7",
        },
        "reason": None,
        "sentence": None,
        "exit_code": None,
        "signal": None,
        "duration": None,
        "final": None,
    }


def test_the_end_for_programs():
    document = Notice.of(ended(Reason.TIMED_OUT, sentence="Too long.")).document()
    told = {name: document[name] for name in ("event", "reason", "sentence", "exit_code", "duration", "final")}
    assert told == {
        "event": "ended",
        "reason": "timed_out",
        "sentence": "Too long.",
        "exit_code": 0,
        "duration": 90.5,
        "final": True,
    }
    assert Notice.of(ended(started=None)).document()["duration"] is None


def test_the_start_for_people():
    text = Notice.of(Started(subject(), 1.0)).text("http://trainer-7:9090")
    assert text == (
        "Experiment `digits-1` of project digits started on trainer-7\n"
        "<http://trainer-7:9090/experiments/digits-1|its page>"
    )


def test_the_end_for_people():
    text = Notice.of(ended(Reason.OUT_OF_MEMORY, sentence="It had 3 GB.", about=subject(2), final=False)).text(None)
    assert "ended: out of memory on trainer-7, attempt 2 after 1m30s" in text
    assert "It had 3 GB. It will be tried again." in text
    assert "http" not in text
    assert "completed" in Notice.of(ended()).text(None)


def test_nobody_elsewhere_is_told_of_what_goes_on():
    happened = [StageEntered(subject(), 1.0, "run"), Checkpointed(subject(), 1.0), ended(Reason.LEASE_LOST)]
    assert [Notice.of(event) for event in happened] == [None] * 3


def test_no_secret_is_told():
    notice = Notice.of(ended(Reason.ARTIFACT_MISSING, sentence="nothing at s3://h/b/k"))
    assert "hunter2" not in json.dumps(notice.document())
    assert "hunter2" not in notice.text("http://h:1")


def test_a_message_cannot_call_people_or_lead_elsewhere():
    about = subject(project="<!channel> <http://evil|click>", key="a`b&c")
    text = Notice.of(ended(sentence="<!here> `x`", about=about)).text("http://h:1")
    assert "<!" not in text
    assert "<http://evil" not in text
    assert text.splitlines()[-1] == "<http://h:1/experiments/a%60b%26c|its page>"


@pytest.mark.parametrize("value", [None, "", "<no value>", 7, {"a": 1}])
def test_a_project_that_is_none_is_left_out(value):
    notice = Notice.of(Started(subject(project=value), 1.0))
    assert notice.document()["experiment"]["project"] is None
    assert "of project" not in notice.text(None)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("127.0.0.1:9090", None),
        ("localhost:9090", None),
        ("[::1]:9090", None),
        ("", None),
        ("0.0.0.0:0", None),
        ("0.0.0.0:9090", "http://trainer-7:9090"),
        ("[::]:9090", "http://trainer-7:9090"),
        ("10.1.2.3:9090", "http://10.1.2.3:9090"),
        ("[fd00::1]:9090", "http://[fd00::1]:9090"),
        ("trainer.lan:80", "http://trainer.lan:80"),
    ],
)
def test_a_link_is_given_where_others_can_follow_it(address, shown):
    assert dashboard_address(HttpSettings(address, "t", allow_remote=False), "trainer-7") == shown


def test_a_key_that_is_no_text_can_be_told():
    assert "its page" in Notice.of(Started(subject(key="\ud800"), 100.0)).text("http://h")
