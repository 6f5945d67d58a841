"""One try at one experiment, from an admitted delivery to a settled one. Read `Attempt.run` from the top.

*Work* (prepare, run) happens beside its watchers in one task group: whatever ends it early cancels the stage, and
the stage puts away what it started. *Finish* (final upload, results, report) comes after, under its own time limit,
so that a stopped experiment still delivers what it has. Then the message is settled, once.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from studio_runner.errors import BrokerError, ExperimentError, Reason, RejectedError, SupersededError
from studio_runner.messages.credentials import secrets_of
from studio_runner.messages.metadata import Document
from studio_runner.messages.naming import name_if_sealed
from studio_runner.messages.request import Request, short_key
from studio_runner.messages.results import parse_results
from studio_runner.messages.salvage import Salvaged, salvaged
from studio_runner.process.base import Exit
from studio_runner.process.hidden import places_of
from studio_runner.process.lines import EveryLine, LineScanner, Scanner
from studio_runner.process.output import Output, Veil
from studio_runner.queues.base import Delivery
from studio_runner.reports.base import Ended, StageEntered, Started, Subject
from studio_runner.runner import watchers
from studio_runner.runner.artifacts import OUTPUT, Artifacts
from studio_runner.runner.context import concerning
from studio_runner.runner.finish import deliver
from studio_runner.runner.halt import explain
from studio_runner.runner.host import Host
from studio_runner.runner.intake import Admission
from studio_runner.runner.outcome import (
    Outcome,
    Settle,
    backoff,
    delivered,
    from_error,
    of_reason,
    shown,
    superseded,
)
from studio_runner.runner.prepare import prepare
from studio_runner.runner.run import run_script
from studio_runner.runner.trial import Trial
from studio_runner.storage.budget import DiskBudget

log = logging.getLogger(__name__)


class Attempt:
    """One delivery of one experiment."""

    def __init__(self, host: Host, delivery: Delivery, admission: Admission) -> None:
        self._host, self._delivery, self._admission = host, delivery, admission
        self._number = delivery.attempts + 1
        self._starting = ExitStack()
        self._starting.enter_context(host.starts.under_way())
        self._wish: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._reading = admission.reading
        request = self._reading.request
        self.key = request.key if request else name_if_sealed(delivery.body) or "(unreadable)"
        self.trial: Trial | None = None
        """Its state, once it has a directory."""

    def stop(self, outcome: Outcome) -> None:
        """End the work early, with this outcome; the first wish counts."""
        if not self._wish.done():
            self._wish.set_result(outcome)

    async def run(self) -> Outcome:
        """Try the experiment and settle its message; every way it can end is an outcome."""
        with (
            concerning(self.key, self._number, self._delivery.queue),
            self._host.secrets.known(self._secrets()),
        ):
            async with AsyncExitStack() as stack:
                stack.callback(self._admission.reservation.release)
                stack.enter_context(self._starting)
                try:
                    outcome = await self._tried(stack)
                except Exception as error:  # the one boundary: whatever it was, the message is settled
                    log.exception("the attempt failed unexpectedly")
                    outcome = self._shown(of_reason(Reason.SYSTEM_ERROR, f"({type(error).__name__}: {error})"))
                    await self._report_unstarted(outcome)
                await self._settle(outcome)
            level = logging.WARNING if outcome.settle is Settle.DEAD else logging.INFO
            log.log(level, "%s: %s", outcome.reason, outcome.sentence)
            return outcome

    @cached_property
    def _salvaged(self) -> Salvaged:
        """Read once: a message may be large, and nothing else happens meanwhile."""
        return salvaged(self._reading.body)

    def _secrets(self) -> frozenset[str]:
        request = self._reading.request
        return secrets_of(request) if request else self._salvaged.secrets

    def _shown(self, outcome: Outcome) -> Outcome:
        return shown(outcome, self._host.secrets.masker)

    async def _tried(self, stack: AsyncExitStack) -> Outcome:
        """The attempt from its directory to its report, not yet settled."""
        request = self._reading.request
        if request is None:
            return await self._refused(self._reading.error)
        if self._reading.sender:
            log.info("signed by %s", self._reading.sender)
        try:
            if self._reading.sealed and await self._was_done(request):
                return superseded()
            trial = await self._open(request, stack)
        except ExperimentError as error:
            return await self._refused(error)
        if self._delivery.redelivered or self._reading.sealed:
            try:
                earlier = await self._delivered_before(trial)
            except RejectedError as error:
                return await self._refused(error)
            if earlier:
                earlier = self._shown(earlier)  # whoever may write to the store wrote it
                await self._report_end(trial.subject, earlier, None)
                return earlier
        await self._host.reports.report(Started(trial.subject, trial.started_at, trial.reserved()))
        outcome = self._worn_out() or await self._work(trial)
        self._starting.close()
        self._admission.reservation.release_compute()
        await self._host.starts.let_pass()
        outcome = await self._finish(trial, outcome)
        await self._report_end(trial.subject, outcome, trial.exit)
        return outcome

    async def _was_done(self, request: Request) -> bool:
        """Whether a runner died with this sealed message after it was done with. RejectedError when it is played
        again."""
        replays = self._host.replays
        if await replays.is_copy(request):
            raise _played_again()
        if not replays.knows(request):
            replays.begin(request, self._delivery)
            return False
        if not self._delivery.redelivered:
            raise _played_again()
        log.warning("the message was done with before: nothing is run again")
        return True

    def _worn_out(self) -> Outcome | None:
        """The budget was spent before this attempt: on runners that died, or else it would not have come again."""
        budget = self._host.settings.queues.deliveries
        if self._number <= budget:
            return None
        return of_reason(Reason.SYSTEM_ERROR, f"(its runner died in each of {budget} attempts)")

    async def _delivered_before(self, trial: Trial) -> Outcome | None:
        """What an earlier attempt at this message came to, if it got so far as to deliver. RejectedError when there
        was one though nobody had the message before, or when its sender has submitted the experiment anew since."""
        try:
            return await self._earlier(trial)
        except SupersededError:
            return superseded()
        except RejectedError:
            raise
        except ExperimentError as error:
            return self._shown(from_error(error))

    async def _earlier(self, trial: Trial) -> Outcome | None:
        if self._reading.sealed and await trial.artifacts.are_outdated():
            raise _outdated()
        found = await trial.artifacts.approach(first=False)
        if found is None:
            return None
        outcome = delivered(parse_results(json.dumps(found).encode()))
        if outcome.settle is not Settle.ACK:
            await trial.artifacts.approach(first=True)  # it was set aside, and somebody wants it tried again
            return None
        if not self._delivery.redelivered:
            raise _played_again()
        log.info("an earlier attempt had delivered its results: nothing is run again")
        await trial.artifacts.put_results(found)
        return outcome

    async def _open(self, request: Request, stack: AsyncExitStack) -> Trial:
        """Make the attempt's directory and all that lives as long as it."""
        settings = self._host.settings
        place = self._host.premises.create(short_key(request.key), self._number)
        if not settings.experiments.keep:
            stack.push_async_callback(asyncio.to_thread, self._host.premises.remove, place)
        artifacts, budget = self._artifacts(request, place), DiskBudget(request.resources.hdd or None)
        await artifacts.begin(budget)
        document, subject = Document(), self._subject(_experiment(request), place)
        scanner = self._scanner(document, self._host.reports.listener(subject))
        veil = Veil(self._host.secrets.masker, notes=None if settings.experiments.mask_output else places_of(place))
        output = Output(place / OUTPUT / "output", settings.experiments.output_limit, scanner, veil)
        self.trial = trial = Trial(
            host=self._host,
            delivery=self._delivery,
            request=request,
            subject=subject,
            directory=place,
            artifacts=artifacts,
            output=stack.enter_context(output),
            document=document,
            budget=budget,
            reservation=self._admission.reservation,
            starting=self._starting,
            started_at=time.time(),
        )
        trial.describe()
        return trial

    def _artifacts(self, request: Request, place: Path) -> Artifacts:
        return Artifacts(request, place, self._number, self._host)

    def _scanner(self, document: Document, listener: Callable[[bytes], None] | None) -> Scanner:
        """What of the output goes into the metadata document, and to a listener if there is one."""
        if self._host.settings.experiments.schema_logs:
            return EveryLine(_heard(lambda line: document.feed_or_log(line, time.time_ns()), listener))
        return LineScanner(_heard(document.feed, listener))

    async def _work(self, trial: Trial) -> Outcome:
        """The stages, beside everything that may end them early."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(watcher) for watcher in self._watchers(trial)]
                outcome = await self._stages(trial)
                for task in watching:
                    task.cancel()
        except ExceptionGroup as failures:
            outcome = explain(failures)
        return outcome

    async def _stages(self, trial: Trial) -> Outcome:
        async with AsyncExitStack() as stack:
            await self._enter(trial, "prepare")
            environment = await prepare(trial, stack)
            await self._enter(trial, "run")
            return await run_script(trial, environment)

    async def _enter(self, trial: Trial, stage: str) -> None:
        trial.stage = stage
        await self._host.reports.report(StageEntered(trial.subject, time.time(), stage))

    def _watchers(self, trial: Trial) -> list[Coroutine[None, None, None]]:
        request, settings = trial.request, self._host.settings
        found = [watchers.asked(self._wish), self._lease(trial)]
        if limit := request.experiment.max_duration:
            found.append(watchers.time_limit(limit))
        if deadline := request.lifetime_deadline:
            found.append(watchers.lifetime(deadline))
        if cards := trial.reservation.gpus.cards:
            log.info("it has the GPUs %s", ", ".join(cards))
            found.append(self._host.gpus.mishaps(trial.reservation.gpus, trial.output.note))
        requested = self._host.databases.stop_request(trial.subject)
        found.append(watchers.stop_request(requested, settings.experiments.stop_poll))
        if status := trial.artifacts.stop_watch():
            found.append(watchers.stop_request(status.requested, settings.experiments.stop_poll))
        return found

    def _lease(self, trial: Trial) -> Coroutine[None, None, None]:
        return watchers.lease(self._delivery, trial.artifacts.fence, self._host.settings.queues.lease / 3)

    async def _finish(self, trial: Trial, outcome: Outcome) -> Outcome:
        if outcome.reason is Reason.LEASE_LOST:
            return outcome
        await self._enter(trial, "finish")
        return self._shown(await deliver(trial, self._shown(outcome), self._is_final))

    def _is_final(self, outcome: Outcome) -> bool:
        """Nobody will try the experiment again."""
        if outcome.settle is Settle.RETRY:
            return self._number >= self._host.settings.queues.deliveries
        return outcome.settle in {Settle.ACK, Settle.DEAD}

    async def _settle(self, outcome: Outcome) -> None:
        said = f"{outcome.reason}: {outcome.sentence}"
        if self._reading.sealed and self._reading.request:
            if outcome.settle is Settle.ACK:
                self._host.replays.add(self._reading.request)
            self._host.replays.end(self._reading.request, self._delivery)
        try:
            match outcome.settle:
                case Settle.ACK:
                    await self._delivery.ack()
                case Settle.RETRY if not self._is_final(outcome):
                    await self._delivery.requeue(backoff(self._delivery.attempts), reason=said)
                case Settle.RETRY | Settle.DEAD:
                    await self._delivery.dead_letter(said)
                case Settle.RETURN:
                    await self._delivery.requeue(charge=False)
                case Settle.ABANDON if outcome.superseded:
                    await self._delivery.ack()  # whoever counts now has a message of its own
                case Settle.ABANDON:
                    pass
        except BrokerError as error:
            log.warning("the message could not be settled and will come again: %s", error)

    async def _refused(self, error: ExperimentError | None) -> Outcome:
        """The experiment never got a directory: only the record can tell of it. Of a message that is not believed
        nothing is told: what it says of its key and of its sender's records may be meant to do harm."""
        outcome = self._shown(from_error(error)) if error else of_reason(Reason.SYSTEM_ERROR)
        if isinstance(error, RejectedError):
            self._admission.cancelled()  # or anybody could use up what the operator gives to senders
        else:
            await self._report_unstarted(outcome)
        return outcome

    async def _report_unstarted(self, outcome: Outcome) -> None:
        request = self._reading.request
        if experiment := _experiment(request) if request else self._salvaged.experiment:
            await self._report_end(self._subject(experiment, None), outcome, None)

    def _subject(self, experiment: Mapping[str, Any], place: Path | None) -> Subject:
        request = self._reading.request
        return Subject(
            key=str(experiment["key"]),
            experiment=experiment,
            queue=self._delivery.queue,
            number=self._number,
            host=self._host.identity.host,
            directory=place,
            runner=self._host.identity.runner,
            config=request.config if request else self._salvaged.config,
        )

    async def _report_end(self, subject: Subject, outcome: Outcome, end: Exit | None) -> None:
        await self._host.reports.report(
            Ended(
                subject=subject,
                at=time.time(),
                reason=outcome.reason,
                sentence=outcome.sentence,
                exit_code=outcome.exit_code,
                signal=outcome.signal,
                final=self._is_final(outcome),
                peak_memory=end.peak_memory if end else 0,
                cpu_seconds=end.cpu_seconds if end else 0.0,
                started=self.trial.started_at if self.trial else None,
                cover=self.trial.output.cover if self.trial else None,
            )
        )


def _heard(feed: Callable[[bytes], bool], listener: Callable[[bytes], None] | None) -> Callable[[bytes], object]:
    """`feed`, and the listener for the lines that it took."""
    if listener is None:
        return feed

    def take(line: bytes) -> None:
        if feed(line):
            listener(line)

    return take


def _played_again() -> RejectedError:
    return RejectedError(
        "The message is being run, or was done with before, and was put on the queue again",
        hint="To run the experiment again, submit it again.",
    )


def _outdated() -> RejectedError:
    return RejectedError(
        "The message is older than one of the same experiment that was taken before it",
        hint="Somebody put it on the queue again, or the clocks of its senders differ (time_added).",
    )


def _experiment(request: Request) -> Mapping[str, Any]:
    experiment: Mapping[str, Any] = request.document["experiment"]
    return experiment
