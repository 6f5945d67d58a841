"""The pages for people. They are whole without JavaScript; `static/app.js` keeps them current."""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from studio_runner.client.artifact_files import Stored
from studio_runner.machine.inventory import Capacity
from studio_runner.messages.units import format_size
from studio_runner.web.catalogue import ExperimentLine
from studio_runner.web.html import Markup, element, joined
from studio_runner.web.overview import GpuView, QueueView, RunnerView, Running

STATIC = Path(__file__).with_name("static")
FINISHED = 20
"""Experiments in the list of those that are over."""

e = element
Cell = object


@lru_cache(maxsize=8)
def asset(name: str) -> tuple[bytes, str]:
    """The content of a static file, and its address, which changes with the content."""
    content = (STATIC / name).read_bytes()
    return content, f"/static/{name}?{hashlib.sha256(content).hexdigest()[:12]}"


def dashboard(runner: RunnerView, queues: Sequence[QueueView], ended: Sequence[ExperimentLine]) -> str:
    """All at a glance; of the experiments that are over some."""
    running = sorted(runner.running, key=lambda one: one.started, reverse=True)
    body = [
        _live("machine", "Machine", _machine(runner)),
        *([_live("gpus", "GPUs", _gpus(runner.gpus), len(runner.gpus))] if runner.gpus else []),
        _live("running", "Running", _running(running), len(running)),
        _live("queues", "Queues", _queues(queues)),
        _live("finished", "Latest results", _ended(ended)),
    ]
    return _page("studio-runner", _state(runner), body)


def latest(lines: Iterable[ExperimentLine]) -> Sequence[ExperimentLine]:
    """Those that ended last."""
    return sorted((line for line in lines if line.time_finished), key=_finished, reverse=True)[:FINISHED]


def experiment(
    line: ExperimentLine, fields: Mapping[str, str], artifacts: Sequence[Stored], running: Running | None
) -> str:
    """One experiment, with its output as it comes."""
    about = [_outcome(line), e("p", line.sentence, class_="sentence") if line.sentence else None]
    if running:
        about.append(_usage(running))
    details = e("dl", [joined((e("dt", name), e("dd", value))) for name, value in fields.items()])
    body = [
        e("nav", e("a", "All experiments", href="/"), aria_label="Way back"),
        e("h2", line.key, class_="key"),
        e("section", *about, id="about", data_live=True),
        _output(line),
        _live("details", "Details", details),
        _live("artifacts", "Artifacts", _artifacts(artifacts)),
    ]
    return _page(f"{line.key} · studio-runner", None, body)


def failure(title: str, error: str, hint: str | None) -> str:
    """An error, for people."""
    words = [e("h2", title), e("p", error), e("p", hint) if hint else None]
    return _page(f"{title} · studio-runner", None, [e("section", *words), e("a", "All experiments", href="/")])


def _page(title: str, state: Markup | None, body: Iterable[Markup]) -> str:
    head = e(
        "head",
        e("meta", charset="utf-8"),
        e("meta", name="viewport", content="width=device-width, initial-scale=1"),
        e("meta", name="color-scheme", content="light dark"),
        e("title", title),
        e("link", rel="icon", href="data:,"),
        e("link", rel="stylesheet", href=asset("style.css")[1]),
        e("script", src=asset("app.js")[1], defer=True),
    )
    top = e("header", e("h1", e("a", "studio-runner", href="/")), state, e("p", id="link", role="status"))
    return f"<!doctype html>\n{e('html', head, e('body', top, e('main', *body)), lang='en')}\n"


def _live(name: str, title: str, content: Markup, count: int | None = None) -> Markup:
    """A part of the page that is brought up to date while one looks at it."""
    number = e("span", count, class_="count") if count else None
    return e("section", e("h2", title, number), content, id=name, data_live=True, aria_label=title)


def _state(runner: RunnerView) -> Markup:
    word, kind = ("draining", "warn") if runner.draining else ("serving", "good")
    return e(
        "p",
        e("span", word, class_=f"badge {kind}"),
        e("span", f"{runner.host} · {runner.version} · up ", _since(runner.started, runner.uptime)),
        id="state",
        data_live=True,
    )


def _machine(runner: RunnerView) -> Markup:
    held = e("p", f"{runner.hold.sentence}.", class_="hold") if runner.hold else None
    return e("div", e("div", _bars(runner.total, runner.free), class_="bars"), held)


def _bars(total: Capacity, free: Capacity) -> list[Markup]:
    return [
        _bar("Cores", total.cores - free.cores, total.cores, str),
        _bar("Memory", total.memory - free.memory, total.memory, _size),
        _bar("Disk", total.disk - free.disk, total.disk, _size),
    ]


def _bar(name: str, used: int, total: int, show: Callable[[int], str]) -> Markup:
    words = f"{show(used)} of {show(total)} reserved"
    share = f"{100 * used / total:.1f}%" if total else "0"
    bar = e(
        "svg",  # a `meter` is drawn differently everywhere, and inline styles are not allowed
        e("rect", width=share, height="100%"),
        role="meter",
        aria_label=name,
        aria_valuemin=0,
        aria_valuemax=total,
        aria_valuenow=used,
        aria_valuetext=words,
    )
    return e("div", e("p", e("strong", name), e("span", words)), bar)


def _size(size: int) -> str:
    return format_size(size) if size else "0"


def _running(running: Sequence[Running]) -> Markup:
    rows = [
        (
            _link(one.key),
            one.project,
            one.queue,
            e("span", one.stage, class_="badge busy"),
            _since(one.started, one.elapsed),
            _memory(one),
            one.cores,
            len(one.gpus),
        )
        for one in running
    ]
    columns = ("Experiment", "Project?", "Queue?", "Stage", "Elapsed#", "Memory#", "Cores#?", "GPUs#?")
    return _table(columns, rows) if rows else _nothing("Nothing runs at the moment.")


def _gpus(gpus: Sequence[GpuView]) -> Markup:
    rows = [
        (
            gpu.index,
            f"{gpu.name} MIG {gpu.profile}" if gpu.parent else gpu.name,
            _size(gpu.memory),
            gpu.slots,
            [_gpu_state(gpu), f" {gpu.trouble}" if gpu.trouble else None],
            joined(part for key in gpu.experiments for part in (_link(key), " ")),
        )
        for gpu in gpus
    ]
    return _table(("GPU#", "Name", "Memory#?", "Slots#?", "State", "Experiment"), rows)


def _gpu_state(gpu: GpuView) -> Markup:
    kind = {"free": "good", "in_use": "busy", "settling": "warn", "set_aside": "bad"}[gpu.state]
    return e("span", gpu.state.replace("_", " "), class_=f"badge {kind}", title=gpu.uuid)


def _memory(one: Running) -> str:
    return f"{_size(one.memory)} of {_size(one.memory_reserved)}" if one.memory_reserved else _size(one.memory)


def _queues(queues: Sequence[QueueView]) -> Markup:
    rows = [
        (
            queue.name if queue.served else [queue.name, e("span", "not served here", class_="badge")],
            queue.waiting,
            queue.claimed,
            queue.delayed,
            e("span", queue.dead, class_="badge bad") if queue.dead else 0,
        )
        for queue in queues
    ]
    columns = ("Queue", "Waiting#", "Claimed#", "Delayed#?", "Dead#")
    return _table(columns, rows) if rows else _nothing("There are no queues yet.")


def _ended(lines: Sequence[ExperimentLine]) -> Markup:
    rows = [
        (_link(line.key), line.project, line.queue, _badge(line), _moment(line.time_finished), _duration(line))
        for line in lines
    ]
    columns = ("Experiment", "Project?", "Queue?", "Outcome", "Ended", "Took#?")
    return _table(columns, rows) if rows else _nothing("No experiment has ended yet.")


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Markup:
    """`#` behind a column's name: figures; `?`: left out where there is little room."""
    names = [column.rstrip("#?") for column in columns]
    kinds = [
        " ".join(kind for sign, kind in (("#", "number"), ("?", "wide")) if sign in column) for column in columns
    ]
    head = [e("th", name, scope="col", class_=kind or None) for name, kind in zip(names, kinds, strict=True)]
    body = [
        e("tr", [e("td", cell, class_=kind or None) for cell, kind in zip(row, kinds, strict=True)]) for row in rows
    ]
    return e("table", e("thead", e("tr", head)), e("tbody", body))


def _nothing(words: str) -> Markup:
    return e("p", words, class_="nothing")


def _link(key: str) -> Markup:
    return e("a", key, href=f"/experiments/{quote(key, safe='', errors='replace')}", class_="key")


def _badge(line: ExperimentLine) -> Markup:
    if line.status == "running":
        return e("span", line.stage or line.status, class_="badge busy")
    word = line.reason or line.status
    kind = {"completed": "good", "stopped": "warn", "waiting": "", "drained": "warn"}.get(word, "bad")
    return e("span", word.replace("_", " "), class_=f"badge {kind}", title=line.sentence)


def _outcome(line: ExperimentLine) -> Markup:
    when: list[object] = []
    if line.status == "running" and line.time_started:
        when = [" for ", _since(line.time_started, time.time() - line.time_started)]
    elif line.time_finished:
        when = [" ended ", _moment(line.time_finished), ", took ", _duration(line)]
    return e("p", _badge(line), when)


def _usage(running: Running) -> Markup:
    gpus = f"; GPUs: {', '.join(running.gpus)}" if running.gpus else ""
    return e("p", f"Memory: {_memory(running)}; cores: {running.cores}{gpus}")


def _output(line: ExperimentLine) -> Markup:
    source = f"/api/v1/experiments/{quote(line.key, safe='', errors='replace')}/output"
    heading = e("h2", "Output ", e("a", "all of it", href=source, class_="aside"))
    text = e(
        "pre", id="output", tabindex=0, role="log", aria_label="Output", data_source=source, data_status=line.status
    )
    without = e("noscript", e("p", e("a", "Read the output", href=source)))
    return e("section", heading, text, without)


def _artifacts(artifacts: Sequence[Stored]) -> Markup:
    rows = [
        (one.label, "brought back" if one.mutable else "read only", "-" if one.size is None else _size(one.size))
        for one in artifacts
    ]
    return _table(("Label", "Use", "Stored#"), rows) if rows else _nothing("It has none.")


def _moment(at: float | None) -> Markup | None:
    """UTC here; the script writes it as the reader's clock has it."""
    if at is None:
        return None
    try:
        when = datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):  # a record may say anything
        return None
    return e("time", f"{when:%Y-%m-%d %H:%M} UTC", datetime=f"{when:%Y-%m-%dT%H:%M:%SZ}")


def _since(start: float, elapsed: float) -> Markup:
    """A time that runs."""
    return e("span", clock(elapsed), data_since=round(start, 3))


def _duration(line: ExperimentLine) -> str:
    if line.time_started is None or line.time_finished is None:
        return ""
    return clock(line.time_finished - line.time_started)


def _finished(line: ExperimentLine) -> float:
    return line.time_finished or 0.0


def clock(seconds: float) -> str:
    """`0.4 s`, `59 s`, `1:05`, `2:01:05`; `static/app.js` has the same."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}\N{NO-BREAK SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\N{NO-BREAK SPACE}s"
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
