"""Reports in the proto3 JSON mapping, beside the protobuf library."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.report import (
    Failure,
    Foreign,
    LogEntry,
    Progress,
    Report,
    Severity,
    State,
    read_report,
    write_report,
)
from tests import specification

NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)

PAYLOADS = [
    LogEntry("scanning queue", Severity.DEBUG, {"queue_name": "rmq_gpu"}, NOON),
    LogEntry("", Severity.DEFAULT, {}),
    Progress(State.STARTED, time=NOON),
    Progress(json='{"loss": 0.1}', time=NOON),
    Progress(State.FAILED, error=Failure("The script failed.", 3), time=NOON),
    Progress(State.STOPPING, error=Failure("")),
    Progress(),
    Foreign({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}),
    "some words",
    None,
]


def report(payload, **others):
    return Report("digits-1", "digits-1.1@runner", "trainer-7", payload, **{"time": NOON, **others})


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_is_written_is_read_again(payload):
    assert read_report(write_report(report(payload))) == report(payload)


@pytest.mark.parametrize("payload", [payload for payload in PAYLOADS if not isinstance(payload, Foreign)])
def test_protobuf_reads_what_is_written(payload):
    found = specification.parse(write_report(report(payload)))
    assert (found.experiment_id.value, found.unique_id.value, found.executor_id.value) == (
        *("digits-1", "digits-1.1@runner"),
        "trainer-7",
    )
    assert found.time.ToDatetime(UTC) == NOON
    match payload:
        case LogEntry():
            assert found.WhichOneof("payload") == "logging"
            entry = found.logging
            assert (entry.message.value, entry.severity) == (payload.message, payload.severity)
            assert dict(entry.fields) == payload.fields
        case Progress():
            assert found.WhichOneof("payload") == "progress"
            assert found.progress.state == payload.state
            assert found.progress.HasField("json") == (payload.json is not None)
            assert found.progress.json.value == (payload.json or "")
            assert found.progress.HasField("error") == (payload.error is not None)
            assert found.progress.error.msg.value == (payload.error.message if payload.error else "")
            assert found.progress.error.code == (payload.error.code if payload.error else 0)
        case str():
            assert found.text.value == payload
        case None:
            assert found.WhichOneof("payload") is None


@pytest.mark.parametrize("original_names", [False, True])
@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("payload", [payload for payload in PAYLOADS if not isinstance(payload, Foreign)])
def test_what_protobuf_writes_is_read(payload, original_names, numbers, everything):
    written = json_format.MessageToJson(
        specification.parse(write_report(report(payload))),
        preserving_proto_field_name=original_names,
        use_integers_for_enums=numbers,
        always_print_fields_with_no_presence=everything,
    )
    assert read_report(written.encode()) == report(payload)


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_any_text_goes_through_protobuf(text, fields):
    written = write_report(report(LogEntry(text, fields=fields)))
    found = specification.parse(written).logging
    assert found.message.value == text.encode(errors="replace").decode()
    assert read_report(written).payload.message == found.message.value
    assert len(found.fields) <= len(fields)


@pytest.mark.parametrize(
    ("spelled", "moment"),
    [
        ("2026-01-31T12:00:00.123456Z", NOON),
        ("2026-01-31T12:00:00.123456789Z", NOON),
        ("2026-01-31T13:30:00.123456+01:30", NOON),
        ("2026-01-31t12:00:00z", NOON.replace(microsecond=0)),
        ("2026-01-31T12:00:00.1Z", NOON.replace(microsecond=100_000)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_times(spelled, moment):
    assert read_report(json.dumps({"time": spelled}).encode()).time == moment


def test_a_time_elsewhere_is_written_in_utc():
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert json.loads(write_report(report(None, time=there)))["time"] == "2026-01-31T12:00:00.123456Z"


def test_unknown_fields_and_states_do_no_harm():
    document = {"experimentId": "a", "hue": 1, "progress": {"state": 7, "error": {"code": "5", "x": []}}}
    found = read_report(json.dumps(document).encode())
    assert found.payload == Progress(State.PRESTART, error=Failure("", 5))


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], "$"),
        ({"experimentId": 1}, "$.experimentId"),
        ({"text": "a", "progress": {}}, "$"),
        ({"progress": []}, "$.progress"),
        ({"progress": {"state": {}}}, "$.progress.state"),
        ({"progress": {"state": 1.5}}, "$.progress.state"),
        ({"progress": {"json": {}}}, "$.progress.json"),
        ({"progress": {"error": {"code": 1 << 31}}}, "$.progress.error.code"),
        ({"progress": {"error": {"code": True}}}, "$.progress.error.code"),
        ({"progress": {"error": {"code": "three"}}}, "$.progress.error.code"),
        ({"logging": {"fields": {"a": 1}}}, "$.logging.fields.a"),
        ({"logging": {"fields": []}}, "$.logging.fields"),
        ({"time": "yesterday"}, "$.time"),
        ({"time": "2026-13-31T12:00:00Z"}, "$.time"),
        ({"time": "2026-01-31 12:00:00Z"}, "$.time"),
        ({"time": "2026-01-31T12:00:00"}, "$.time"),
        ({"time": 5}, "$.time"),
    ],
)
def test_what_is_no_report_says_where(document, path):
    with pytest.raises(InvalidMessageError) as caught:
        read_report(json.dumps(document).encode())
    assert caught.value.path == path


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["time", "progress", "logging", "state", "error", "code", "fields", "text", "severity", "json"]
                ),
                inner,
            )
        ),
    )
)
def test_whatever_comes_is_a_report_or_refused(document):
    with suppress(InvalidMessageError):
        read_report(json.dumps(document).encode())
