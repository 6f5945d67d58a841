import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from studio_runner.client.artifact_files import Stored
from studio_runner.machine.gpus.pool import CardState
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.need import NO_GPUS
from studio_runner.runner.hold import Hold
from studio_runner.web import pages
from studio_runner.web.catalogue import ExperimentLine
from studio_runner.web.html import Markup, element, joined
from studio_runner.web.overview import GpuView, QueueView, RunnerLimits, RunnerView, Running

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
GB = 10**9

LINE = ExperimentLine(
    key="k1", status="finished", stage=None, reason="completed", sentence="It ran.", queue="local_q", project="digits",
    host="h", attempt=1, script="train.py", time_added=1.0, time_started=10.0, time_finished=135.0,
)  # fmt: skip
RUNNING = Running(
    key="k2", attempt=1, queue="local_q", project="digits", stage="run", started=5.0, elapsed=65.0, cores=2,
    memory=3 * GB, memory_reserved=4 * GB, gpus=(),
)  # fmt: skip
RUNNER = RunnerView(
    host="h", runner="h-1", version="1.2.3", started=1.0, uptime=59.0, draining=False, total=Capacity(8, 16 * GB, 0),
    free=Capacity(6, 12 * GB, 0), limits=RunnerLimits(0, 0, 0), running=[RUNNING], gpus=(), hold=None,
)  # fmt: skip
QUEUE = QueueView("local_q", served=True, waiting=4, claimed=3, delayed=2, dead=1)


class Page(HTMLParser):
    """The elements and the text of a page; fails on one that is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def dashboard(runner=RUNNER, queues=(QUEUE,), lines=(LINE,)):
    return Page(pages.dashboard(runner, queues, lines))


def experiment(line=LINE, fields=(), artifacts=(), running=None):
    return Page(pages.experiment(line, dict(fields), artifacts, running))


def test_the_dashboard_shows_machine_work_queues_and_results():
    page = dashboard()
    assert "2 of 8 reserved" in page.text
    assert "4 GB of 16 GB reserved" in page.text
    assert "3 GB of 4 GB" in page.text
    assert re.search(r"local_q\s+4\s+3\s+2\s+1", page.text)
    assert "2:05" in page.text  # how long it took
    assert {link.get("href") for link in page.of("a")} >= {"/experiments/k1", "/experiments/k2"}
    widths = [bar["width"] for bar in page.of("rect")]
    assert widths == ["25.0%", "25.0%", "0"]


def test_the_dashboard_says_for_whom_room_is_held():
    hold = Hold("k9", "local_q", Capacity(8, 0, 0), NO_GPUS, since=1.0, due=None, left=3, sentence="8 cores <held>")
    assert "8 cores <held>." in dashboard(replace(RUNNER, hold=hold)).text


def test_an_empty_dashboard_says_so():
    page = dashboard(replace(RUNNER, running=[], draining=True), (), ())
    for words in ("Nothing runs", "no queues", "No experiment has ended", "draining"):
        assert words in page.text


def test_the_latest_ends_come_first_and_no_more_than_fit():
    lines = [replace(LINE, key=f"k{number:03}", time_finished=float(number)) for number in range(1, 60)]
    shown = re.findall(r"k\d{3}", pages.dashboard(replace(RUNNER, running=[]), (), pages.latest(lines)))
    assert list(dict.fromkeys(shown)) == [f"k{number:03}" for number in range(59, 59 - pages.FINISHED, -1)]


def test_nothing_from_outside_becomes_an_element():
    line = replace(LINE, key=HOSTILE, project=HOSTILE, queue=HOSTILE, sentence=HOSTILE, reason=HOSTILE)
    running = replace(RUNNING, key=HOSTILE, project=HOSTILE, queue=HOSTILE, stage=HOSTILE)
    stored = Stored(HOSTILE, HOSTILE, mutable=True, size=1)
    shown = [
        dashboard(replace(RUNNER, running=[running], host=HOSTILE), [replace(QUEUE, name=HOSTILE)], [line]),
        experiment(line, {HOSTILE: HOSTILE}, [stored], running),
        Page(pages.failure(HOSTILE, HOSTILE, HOSTILE)),
    ]
    for page in shown:
        assert page.of("img") == []
        assert [list(script) for script in page.of("script")] == [["src", "defer"]]
        assert not any(name.startswith("on") or name == "style" for _, given in page.elements for name in given)


def test_links_lead_to_the_experiment_whatever_its_key_is():
    page = dashboard(lines=[replace(LINE, key="a b/c?d#e%2F")])
    assert {"href": "/experiments/a%20b%2Fc%3Fd%23e%252F", "class": "key"} in page.of("a")


def test_half_a_character_can_be_shown():
    line = replace(LINE, key="\ud800", sentence="\udfff")
    pages.dashboard(RUNNER, (), [line]).encode()
    pages.experiment(line, {"a": "\ud800"}, (), None).encode()


def test_an_experiment_has_its_output_beside_its_details():
    page = experiment(
        fields={"script": "train.py"}, artifacts=[Stored("modeldir", "file:///x", mutable=True, size=2048)]
    )
    assert page.of("pre")[0]["data-source"] == "/api/v1/experiments/k1/output"
    assert re.search(r"completed\s+ended", page.text)
    assert "2.05 KB" in page.text
    assert "It ran." in page.text


def test_a_running_experiment_shows_what_it_uses():
    page = experiment(replace(LINE, status="running", stage="run", time_finished=None), running=RUNNING)
    assert "3 GB of 4 GB" in page.text


def test_files_are_addressed_by_their_content():
    page = dashboard()
    assert re.fullmatch(r"/static/app\.js\?[0-9a-f]{12}", page.of("script")[0]["src"])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (59.2, "59 s"),
        (59.7, "1:00"),
        (65, "1:05"),
        (7265, "2:01:05"),
        (90000, "25:00:00"),
    ],
)
def test_clock(seconds, shown):
    assert pages.clock(seconds).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_elements_escape_what_is_text_and_only_that():
    made = element(
        "p", "a<b", None, [Markup("<br>"), "&"], element("i", 1), title='"', hidden=True, id=None, data_x=2
    )
    assert made == '<p title="&quot;" hidden data-x="2">a&lt;b<br>&amp;<i>1</i></p>'
    assert joined(["<", Markup("<")]) == "&lt;<"
    assert element("meta", name="x") == '<meta name="x">'


GPU = GpuView(
    index=3, uuid="GPU-1", name="NVIDIA A100", vendor="nvidia", memory=40 * GB, slots=24, parent="", profile="",
    state=CardState.IN_USE, trouble="", experiments=["k2"],
)  # fmt: skip


def test_gpus_are_shown_with_their_state_and_who_has_them():
    aside = replace(GPU, index=4, state=CardState.SET_ASIDE, trouble=HOSTILE, experiments=[])
    part = replace(GPU, index=5, parent="GPU-9", profile="3g.20gb", slots=10, state=CardState.FREE, experiments=[])
    page = dashboard(replace(RUNNER, gpus=[GPU, aside, part], running=[]))
    assert re.search(r"3\s+NVIDIA A100\s+40 GB\s+24\s+in use\s+k2", page.text)
    assert "set aside" in page.text
    assert "NVIDIA A100 MIG 3g.20gb" in page.text
    assert HOSTILE in page.text
    assert not page.of("img")
    assert {"href": "/experiments/k2", "class": "key"} in page.of("a")


def test_a_runner_without_gpus_has_no_table_of_them():
    assert "Slots" not in dashboard().text


def test_the_page_of_an_experiment_names_its_gpus():
    assert "GPUs: GPU-1, GPU-2" in experiment(running=replace(RUNNING, gpus=["GPU-1", "GPU-2"])).text
