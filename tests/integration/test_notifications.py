"""Notifications over HTTP, to a server that misbehaves."""

import asyncio
import contextlib
import logging

import pytest
from aiohttp import web

from studio_runner.config.settings import ReportSettings
from studio_runner.errors import ConfigError, Reason
from studio_runner.messages.request import Config
from studio_runner.reports import opening, outbox
from studio_runner.reports.base import Ended, Started, Subject
from studio_runner.reports.databases import Databases
from studio_runner.reports.opening import opened_reporters


class Listener:
    """A server that remembers what it was sent; `answer` says what it says."""

    def __init__(self):
        self.received = []
        self.answers = []
        self.url = ""

    async def take(self, request):
        self.received.append((request.path, request.headers, await request.json()))
        answer = self.answers.pop(0) if self.answers else web.Response(text="ok")
        return await answer() if callable(answer) else answer

    def bodies(self):
        return [body for _, _, body in self.received]

    async def until(self, count):
        async with asyncio.timeout(60):
            while len(self.received) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def listener():
    found = Listener()
    app = web.Application()
    app.router.add_post("/{path:.*}", found.take)
    app.router.add_get("/{path:.*}", found.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(outbox, "PAUSE", 0.01)


def subject(key="k", destination="#training"):
    return Subject(
        key=key,
        experiment={"key": key, "project": "digits"},
        queue="rmq_q",
        number=1,
        host="h",
        directory=None,
        config=Config.model_validate({"runner": {"slack_destination": destination}}),
    )


def ended(about):
    return Ended(about, 9.0, Reason.COMPLETED, "It ended.", 0, None, True, 1, 1.0, 1.0)


@contextlib.asynccontextmanager
async def reporting(tmp_path, slack_url="", slack_token="", webhooks=(), dashboard=None):
    settings = ReportSettings(slack_url, slack_token, tuple(webhooks))
    async with opened_reporters(settings, Databases(tmp_path / "db"), dashboard) as reporters:

        async def report(*events):
            for event in events:
                for reporter in reporters:
                    await reporter.report(event)

        yield report


async def test_every_webhook_hears_of_start_and_end_in_order(listener, tmp_path):
    hooks = [f"{listener.url}/a", f"{listener.url}/b"]
    async with reporting(tmp_path, webhooks=hooks) as report:
        await report(Started(subject(), 1.0), ended(subject()))
    for path in ("/a", "/b"):
        told = [body["event"] for where, _, body in listener.received if where == path]
        assert told == ["started", "ended"]
    assert listener.received[0][1]["Content-Type"].startswith("application/json")


async def test_slack_is_told_where_the_message_says(listener, tmp_path):
    async with reporting(tmp_path, slack_url=f"{listener.url}/services/T/B/x", dashboard="http://h:9090") as report:
        await report(Started(subject(destination="@ann"), 1.0), ended(subject()))
    assert [body["channel"] for body in listener.bodies()] == ["@ann", "#training"]
    assert "Experiment `k` of project digits started on h" in listener.bodies()[0]["text"]
    assert "http://h:9090/experiments/k" in listener.bodies()[1]["text"]


async def test_slack_hears_nothing_of_experiments_that_name_nobody(listener, tmp_path):
    async with reporting(tmp_path, slack_url=listener.url) as report:
        await report(Started(subject(destination=None), 1.0), ended(subject(destination="")))
    assert listener.received == []


async def test_slack_is_reached_with_a_token_too(listener, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "SLACK_API", f"{listener.url}/api/chat.postMessage")
    async with reporting(tmp_path, slack_token="xoxb-hunter2") as report:
        await report(Started(subject(), 1.0))
    path, headers, body = listener.received[0]
    assert (path, headers["Authorization"]) == ("/api/chat.postMessage", "Bearer xoxb-hunter2")
    assert body["channel"] == "#training"


async def test_slack_says_no_in_its_answer(listener, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(opening, "SLACK_API", listener.url)
    listener.answers = [web.json_response({"ok": False, "error": "channel_not_found"}) for _ in range(2)]
    async with reporting(tmp_path, slack_token="xoxb-hunter2") as report:
        await report(Started(subject(), 1.0), ended(subject()))
    assert len(listener.received) == 2
    assert caplog.text.count("channel_not_found") == 1
    assert "hunter2" not in caplog.text


async def test_an_answer_that_is_nested_deep_is_none(listener, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "SLACK_API", listener.url)
    listener.answers = [web.Response(text='{"ok":' + "[" * 4000)]
    async with reporting(tmp_path, slack_token="xoxb-hunter2") as report:
        await report(Started(subject(), 1.0), ended(subject()))
    assert len(listener.received) == 2


async def test_what_may_pass_is_tried_again_in_order(listener, tmp_path):
    listener.answers = [web.Response(status=503), web.Response(status=429, headers={"Retry-After": "0"})]
    async with reporting(tmp_path, webhooks=[listener.url]) as report:
        await report(Started(subject(), 1.0), ended(subject()))
        await listener.until(4)
    assert [body["event"] for body in listener.bodies()] == ["started", "started", "started", "ended"]


async def test_three_tries_are_enough_and_it_is_said_once(listener, tmp_path, caplog):
    listener.answers = [web.Response(status=500, text="we are\nbroken") for _ in range(6)]
    secret = f"{listener.url.replace('http://', 'http://me:hunter2@')}/services/hunter3"
    async with reporting(tmp_path, webhooks=[secret]) as report:
        await report(Started(subject("a"), 1.0), Started(subject("b"), 1.0), Started(subject("c"), 1.0))
        await listener.until(7)
    assert [body["experiment"]["key"] for body in listener.bodies()] == ["a", "a", "a", "b", "b", "b", "c"]
    assert caplog.text.count("does not take notifications: it answers 500 (we are broken)") == 1
    assert "hunter" not in caplog.text


async def test_what_is_refused_for_good_is_not_tried_again(listener, tmp_path, caplog):
    listener.answers = [web.Response(status=404, text="no_service")]
    async with reporting(tmp_path, slack_url=listener.url) as report:
        await report(Started(subject(), 1.0), ended(subject()))
    assert len(listener.received) == 2
    assert "Slack webhook at 127.0.0.1" in caplog.text
    assert "it answers 404 (no_service)" in caplog.text


async def test_nobody_is_sent_elsewhere(listener, tmp_path, caplog):
    listener.answers = [web.Response(status=307, headers={"Location": f"{listener.url}/elsewhere"})]
    async with reporting(tmp_path, webhooks=[f"{listener.url}/here"]) as report:
        await report(Started(subject(), 1.0))
    assert [path for path, _, _ in listener.received] == ["/here"]
    assert "307" in caplog.text


async def test_one_that_hangs_holds_up_nobody(listener, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "CLOSING", 0.1)

    async def never():
        await asyncio.sleep(60)

    listener.answers = [never]
    async with asyncio.timeout(10), reporting(tmp_path, webhooks=[f"{listener.url}/slow"]) as report:
        async with asyncio.timeout(5):
            await report(Started(subject(), 1.0), ended(subject()))
        await listener.until(1)
    assert "2 notifications of the webhook at 127.0.0.1" in caplog.text


async def test_one_that_takes_too_long_misses_the_oldest(listener, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "MOST", 3)
    go_on = asyncio.Event()

    async def slow():
        await go_on.wait()
        return web.Response()

    listener.answers = [slow]
    async with reporting(tmp_path, webhooks=[listener.url]) as report:
        await report(Started(subject("first"), 1.0))
        await listener.until(1)
        await report(*(Started(subject(f"k{number}"), 1.0) for number in range(6)))
        go_on.set()
    keys = [body["experiment"]["key"] for body in listener.bodies()]
    assert keys == ["first", "k3", "k4", "k5"]
    assert caplog.text.count("the oldest notifications are dropped") == 1


async def test_nobody_there_is_no_trouble_for_experiments(tmp_path, caplog, unused_tcp_port):
    caplog.set_level(logging.WARNING)
    async with reporting(tmp_path, webhooks=[f"http://127.0.0.1:{unused_tcp_port}/x/hunter2"]) as report:
        await report(Started(subject(), 1.0), ended(subject()))
    assert caplog.text.count("does not take notifications") == 1
    assert "onnect" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("settings", [{"slack_url": "ftp://h/hunter2"}, {"webhooks": ["file:///hunter2"]}])
async def test_an_address_that_is_none_is_refused_at_the_start(settings, tmp_path):
    with pytest.raises(ConfigError) as refusal:
        async with reporting(tmp_path, **settings):
            pass
    assert "reports." in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
