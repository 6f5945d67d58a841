"""Entry point: runs a command, turns every error into a sentence and an exit code."""

import io
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import click

from studio_runner import __version__
from studio_runner.cli.common import COMPLETE, NAME, common
from studio_runner.cli.discretion import keep_words
from studio_runner.cli.output import discard_output, tell
from studio_runner.cli.session import Session
from studio_runner.cli.table import Commands
from studio_runner.errors import ExitCode, StudioRunnerError

INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + signal.SIGPIPE


def main() -> NoReturn:
    """The command `studio-runner`."""
    if len(sys.argv) > 2:  # a command and something for it
        keep_words()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what this terminal's encoding has not
            stream.reconfigure(errors="backslashreplace")
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        raise SystemExit(shell_complete(application(), {"obj": Session(os.environ)}, NAME, COMPLETE, instruction))
    raise SystemExit(call(sys.argv[1:], os.environ))


def application() -> Commands:
    """All of the command line."""
    version = click.version_option(__version__, "--version", message="%(prog)s %(version)s")
    group = Commands(
        NAME,
        params=[*common()],
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Run experiments: queue them, run them, bring back what they produced.",
        epilog="`studio-runner COMMAND --help` explains a command.",
    )
    return version(group)


def call(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command line; returns its exit code. Whatever is raised ends here."""
    session = Session(environ)
    try:
        code = _run(arguments, session)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        return _refused(error, session)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  the one boundary
        return _failed(error, session)
    return code


def _run(arguments: Sequence[str], session: Session) -> int:
    group = application()
    with group.make_context(NAME, list(arguments), obj=session) as context:
        result = group.invoke(context)
    return result if isinstance(result, int) else ExitCode.DONE


def _refused(error: click.ClickException, session: Session) -> int:
    """A command line that cannot be understood."""
    said = io.StringIO()
    error.show(said)
    click.echo(session.masker().text(said.getvalue()), err=True, nl=False)
    if isinstance(error, click.NoSuchOption):
        from studio_runner.config.options import NOT_HERE

        if explanation := NOT_HERE.get(error.option_name.lstrip("-")):
            click.echo(f"Hint: {explanation}.", err=True)
    return ExitCode.USAGE


def _failed(error: Exception, session: Session) -> int:
    leaves = [*_leaves(error)]
    if any(isinstance(leaf, BrokenPipeError) for leaf in leaves) and _reader_gone():
        return READER_GONE
    known = [leaf for leaf in leaves if isinstance(leaf, StudioRunnerError)]
    if session.debug:
        click.echo(_traceback(error, session), err=True, nl=False)
    if known:
        tell(known[0], session.masker())
        return known[0].exit_code
    for leaf in leaves:
        if isinstance(leaf, OSError) and leaf.filename is not None:
            hint = "`studio-runner doctor` looks at what a runner needs; --debug shows where this came from."
            return _told(f"{leaf.strerror}: {leaf.filename}", hint, session)
    return _bug(error, session)


def _told(message: str, hint: str, session: Session) -> int:
    tell(StudioRunnerError(message, hint=hint), session.masker())
    return ExitCode.INFRASTRUCTURE


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a task group, one by one."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _reader_gone() -> bool:
    """Whether it was the reader of our output that broke the pipe; if so, nobody is told of it again."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # a write may have failed and left nothing behind to try again
    if not poll.poll(0):
        return False
    discard_output()
    return True


def _bug(error: Exception, session: Session) -> int:
    where = "shown above" if session.debug else f"in {_keep(_traceback(error, session))}"
    hint = f"this is a bug in studio-runner; where it happened is {where}."
    return _told(f"{type(error).__name__}: {error}", hint, session)


def _traceback(error: Exception, session: Session) -> str:
    import traceback

    return session.masker().text("".join(traceback.format_exception(error)))


def _keep(text: str) -> str:
    """Write the text to a file of its own; returns its path."""
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="studio-runner-", suffix=".traceback")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return path
