"""`studio-runner doctor`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

from studio_runner.cli.checkup.finding import Finding, Here, State, problem, warning
from studio_runner.cli.experiments import BROKERS
from studio_runner.cli.front import front_of
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_json
from studio_runner.cli.own_secrets import open_files
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings
from studio_runner.config.studioml import StudioConfig
from studio_runner.errors import ConfigError, ExitCode, StudioRunnerError

Check = Callable[[Here], Iterable[Finding]]


@click.command()
@with_settings(
    "places",
    "machine",
    "gpus",
    "containers",
    "trust",
    "http",
    "storage",
    *BROKERS,
    "queues.amqp_queues",
    "queues.lease",
)
@json_option
@click.pass_obj
def command(session: Session, settings: Settings, *, as_json: bool) -> int:
    """Say what works on this machine and what does not, and how to mend it.

    Exits with 1 when something does not work.
    """
    found = [*_notes(session), *_findings(session, settings)]
    findings = [finding.shown(session.masker()) for finding in found]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(str(finding))
        click.echo(_summary(findings))
    return ExitCode.FAILED if any(finding.state is State.PROBLEM for finding in findings) else ExitCode.DONE


def _findings(session: Session, settings: Settings) -> list[Finding]:
    try:
        with front_of(session, settings) as front:
            here = Here(front.settings, session.environ, front.config)
            return [*_open_files(session, front.config), *examine(here)]
    except ConfigError as error:  # what can be looked at without it is
        without = list(examine(Here(settings, session.environ)))
        open_files = _open_files(session, StudioConfig())
        return [problem("StudioML configuration", str(error), error.hint or "Correct it."), *open_files, *without]


def checks() -> tuple[Check, ...]:
    """All of them, in the order of their report."""
    from studio_runner.cli.checkup import brokers, containers, gpus, keys, limits, places, python, stores, system

    return (
        system.share,
        gpus.cards,
        places.queue_root,
        system.inotify,
        places.working_dir,
        places.store,
        places.cache,
        places.disk,
        python.interpreters,
        python.uv,
        python.indexes,
        system.processes,
        limits.limits,
        containers.containers,
        system.open_files,
        keys.keys,
        system.http,
        brokers.rabbitmq,
        brokers.sqs,
        stores.buckets,
        stores.notices,
    )


def examine(here: Here) -> Iterator[Finding]:
    """Run the checks side by side: some of them wait for other programs and machines."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        for findings in pool.map(lambda check: _run(check, here), checks()):
            yield from findings


def _run(check: Check, here: Here) -> list[Finding]:
    """A check that cannot be made is a finding as well; the others go on."""
    try:
        return list(check(here))
    except (OSError, StudioRunnerError) as error:
        mend = getattr(error, "hint", None) or "See what it names."
        return [problem(check.__name__.replace("_", " "), f"could not be looked at: {error}", mend)]


def _notes(session: Session) -> Iterator[Finding]:
    for note in session.configuration().notes:
        yield warning("environment", note, "Unset it.")


def _open_files(session: Session, config: StudioConfig) -> Iterator[Finding]:
    for sentence in open_files(session.configuration(), config, session.environ):
        yield warning("secrets", sentence, "Run: chmod 600 on it, and change what is in it if others have read it.")


def _summary(findings: Iterable[Finding]) -> str:
    count = Counter(finding.state for finding in findings)
    if count[State.PROBLEM]:
        return f"\n{count[State.PROBLEM]} of {count.total()} findings need mending."
    match count[State.WARNING]:
        case 0:
            return "\nAll is well."
        case 1:
            return "\nIt works, with a warning."
        case number:
            return f"\nIt works, with {number} warnings."
