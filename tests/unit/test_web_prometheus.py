from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from studio_runner.errors import Reason
from studio_runner.machine.inventory import Capacity
from studio_runner.reports import prometheus
from studio_runner.reports.base import Ended, StageEntered, Started, Subject
from studio_runner.reports.prometheus import (
    ArtifactFigures,
    CacheFigures,
    GpuFigures,
    HoldFigures,
    Metrics,
    QueueFigures,
    Standing,
    queue_type,
)

IDLE = Standing(
    host="h", total=Capacity(8, 16, 100), free=Capacity(6, 12, 100), draining=False, running=(), queues=(),
    environments=CacheFigures(hits=7, misses=2, size=1234), images=CacheFigures(hits=5, misses=1, size=99),
)  # fmt: skip


def subject(key="k", project="digits", queue="local_q", number=1, added=0.0):
    experiment = {"key": key, "project": project, "time_added": added}
    return Subject(key=key, experiment=experiment, queue=queue, number=number, host="h", directory=None)


def ended(about, at, reason=Reason.COMPLETED, *, final=True):
    return Ended(about, at, reason, "", None, None, final=final, peak_memory=0, cpu_seconds=0.0)


def figures(metrics, standing=IDLE):
    """Samples by name and labels."""
    families = text_string_to_metric_families(metrics.exposition(standing).decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def test_stages_and_ends_are_counted():
    metrics, about = Metrics(), subject(added=100.0)
    for event in (
        Started(about, 110.0), StageEntered(about, 110.5, "prepare"), StageEntered(about, 112.0, "run"),
        StageEntered(about, 142.0, "finish"), ended(about, 143.0, Reason.TIMED_OUT),
    ):  # fmt: skip
        await metrics.report(event)
    found = figures(metrics)
    assert found["studio_runner_attempts_total", ("reason", "timed_out")] == 1
    assert found["studio_runner_attempts_total", ("reason", "completed")] == 0
    assert found["studio_runner_stage_seconds_sum", ("stage", "run")] == 30
    assert found["studio_runner_stage_seconds_sum", ("stage", "finish")] == 1
    assert found["studio_runner_stage_seconds_bucket", ("le", "30.0"), ("stage", "run")] == 1
    assert found["studio_runner_stage_seconds_bucket", ("le", "10.0"), ("stage", "run")] == 0
    assert found["studio_runner_time_to_run_seconds_sum",] == 12


@pytest.mark.parametrize(
    "about", [subject(number=2, added=100.0), subject(added=1.0), subject(added=None), subject(added="x")]
)
async def test_the_wait_is_known_of_first_attempts_with_a_time_alone(about):
    metrics = Metrics()
    await metrics.report(StageEntered(about, 200.0, "run"))
    assert figures(metrics)["studio_runner_time_to_run_seconds_count",] == 0


async def test_an_experiment_counts_once_however_often_it_is_tried():
    metrics = Metrics()
    await metrics.report(ended(subject(), 1.0, Reason.STORAGE_UNAVAILABLE, final=False))
    await metrics.report(ended(subject(number=2), 2.0))
    labels = (
        ("experiment", ""),
        ("host", "h"),
        ("project", "digits"),
        ("queue_name", "local_q"),
        ("queue_type", "local"),
    )
    assert figures(metrics)["runner_project_completed", *labels] == 1


async def test_the_number_of_series_stays_bounded(monkeypatch):
    monkeypatch.setattr(prometheus, "MOST_PROJECTS", 3)
    monkeypatch.setattr(prometheus, "MOST_OPEN", 3)
    metrics = Metrics()
    for number in range(20):
        about = subject(key=f"k{number}", project=f"p{number}")
        await metrics.report(Started(about, 0.0))
        await metrics.report(ended(about, 1.0))
    found = {key: value for key, value in figures(metrics).items() if key[0] == "runner_project_completed"}
    assert len(found) == 4
    assert sum(found.values()) == 20
    assert not any("k1" in str(key) for key in figures(metrics))


def test_what_runs_has_a_series_while_it_runs():
    metrics = Metrics()
    labels = (
        ("experiment", "k"),
        ("host", "h"),
        ("project", "digits"),
        ("queue_name", "local_q"),
        ("queue_type", "local"),
    )
    busy = Standing(**{**vars(IDLE), "running": [subject()]})
    assert figures(metrics, busy)["runner_project_running", *labels] == 1
    assert ("runner_project_running", *labels) not in figures(metrics)


def test_queues_have_the_names_that_dashboards_know():
    queue = QueueFigures(
        "rmq_q", found=1, failed=2, checked=3, ignored=4, rejected=7, messages={"waiting": 5, "dead": 6}
    )
    found = figures(Metrics(), Standing(**{**vars(IDLE), "queues": [queue]}))
    labels = ("host", "h"), ("queue_name", "rmq_q"), ("queue_type", "rmq")
    for name, value in (("refresh_success", 1), ("refresh_fail", 2), ("checked", 3), ("ignored", 4)):
        assert found[f"runner_queue_{name}", *labels] == value
    assert found["studio_runner_queue_messages", *labels[1:], ("state", "dead")] == 6
    assert found["studio_runner_queue_rejected_total", *labels[1:]] == 7


def test_room_that_is_held_is_shown_by_queue():
    held = HoldFigures("rmq_q", Capacity(8, 16, 0), waited=30.0, left=4)
    found = figures(Metrics(), Standing(**{**vars(IDLE), "held": held}))
    labels = ("queue_name", "rmq_q"), ("queue_type", "rmq")
    for name, value in (("cores", 8), ("memory_bytes", 16), ("seconds", 30), ("passed_over", 4)):
        assert found[f"studio_runner_held_{name}", *labels] == value
        assert (f"studio_runner_held_{name}", *labels) not in figures(Metrics(), IDLE)


def test_the_machine_and_the_cache_are_shown():
    found = figures(Metrics(), Standing(**{**vars(IDLE), "draining": True}))
    assert found["studio_runner_capacity_cores",] == 8
    assert found["studio_runner_reserved_cores",] == 2
    assert found["studio_runner_reserved_memory_bytes",] == 4
    assert found["studio_runner_reserved_disk_bytes",] == 0
    assert found["studio_runner_draining",] == 1
    assert found["studio_runner_environment_cache_hits_total",] == 7
    assert found["studio_runner_environment_cache_misses_total",] == 2
    assert found["studio_runner_environment_cache_bytes",] == 1234
    assert found["studio_runner_image_cache_hits_total",] == 5
    assert found["studio_runner_image_cache_misses_total",] == 1
    assert found["studio_runner_image_cache_bytes",] == 99
    assert found["process_resident_memory_bytes",] > 0


def test_names_of_strangers_are_quoted():
    odd = 'a"b\\c\nd'
    busy = Standing(**{**vars(IDLE), "running": [subject(key=odd)]})
    assert any(("experiment", odd) in key for key in figures(Metrics(), busy))


def test_queue_types():
    assert [queue_type(name) for name in ("local_a_b", "sqs_x", "rmq_y@v", "plain")] == [
        "local",
        "sqs",
        "rmq",
        "local",
    ]


def test_the_cache_of_artifacts():
    artifacts = ArtifactFigures(hits={"abc": 3}, misses={"abc": 1, "others": 2})
    found = figures(Metrics(), Standing(**{**vars(IDLE), "artifacts": artifacts}))
    assert found["runner_cache_hits", ("hash", "abc"), ("host", "h")] == 3
    assert found["runner_cache_misses", ("hash", "others"), ("host", "h")] == 2


def test_gpus_are_counted_by_state_and_named_where_somebody_has_them_or_should_look():
    gpus = [
        GpuFigures("GPU-1", "Tesla T4", "in_use", experiments=["a", "b"]),
        GpuFigures("GPU-2", "Tesla T4", "set_aside", trouble="GPU is lost"),
        GpuFigures("GPU-3", "Tesla T4", "free"),
    ]
    found = figures(Metrics(), replace(IDLE, gpus=gpus))
    assert (found["studio_runner_capacity_gpus",], found["studio_runner_reserved_gpus",]) == (3, 1)
    by_state = {name[1][1]: value for name, value in found.items() if name[0] == "studio_runner_gpus"}
    assert by_state == {"free": 1, "in_use": 1, "settling": 0, "set_aside": 1}
    assert (
        found["studio_runner_gpu_set_aside", ("gpu", "GPU-2"), ("name", "Tesla T4"), ("reason", "GPU is lost")] == 1
    )
    holders = {dict(name[1:])["experiment"] for name in found if name[0] == "studio_runner_gpu_reserved"}
    assert holders == {"a", "b"}


def test_a_runner_without_gpus_says_so():
    assert figures(Metrics())["studio_runner_capacity_gpus",] == 0


async def test_names_that_are_no_text_do_not_end_the_figures():
    metrics, queue = Metrics(), QueueFigures("local_\udcff")
    for project in ("\ud800", "\ud801"):
        await metrics.report(ended(subject(project=project), 10.0))
    found = figures(metrics, replace(IDLE, running=[subject(key="\ud800")], queues=[queue]))
    completed = {dict(labels)["project"] for name, *labels in found if name == "runner_project_completed"}
    assert completed == {"\\ud800", "\\ud801"}


@pytest.mark.parametrize("project", ["x" * 1_000_000, {"a": ["x"] * 100_000}])
async def test_a_project_of_megabytes_is_not_kept(project):
    metrics = Metrics()
    await metrics.report(ended(subject(project=project), 1.0))
    running = replace(IDLE, running=[subject(project=project)])
    assert len(metrics.exposition(running)) < 50_000
