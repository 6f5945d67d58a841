"""`studio-runner keys`."""

import getpass
import socket
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studio_runner.cli.common import common
from studio_runner.cli.experiments import busy
from studio_runner.cli.options import json_option, with_settings
from studio_runner.cli.output import print_fields, print_json, tell
from studio_runner.cli.passphrase import asked, chosen, kept_in
from studio_runner.cli.session import Session
from studio_runner.config.settings import Settings
from studio_runner.errors import ExitCode, KeyFileError, UsageError

if TYPE_CHECKING:  # what handles keys is loaded when there are some
    from studio_runner.config.keys.making import PairFiles
    from studio_runner.config.keys.report import KeyReport

_FILE = click.Path(path_type=Path)
_KINDS = ("signing", "encryption", "reports")
_NEXT = {
    "signing": (
        "stays with you: signing_key_path of your StudioML configuration",
        "for the runner's operator: studio-runner keys trust QUEUES FILE",
    ),
    "encryption": (
        "stays with the runner: --encrypt-dir",
        "for those who send: public_key_path of their StudioML configuration",
    ),
    "reports": (
        "stays with who reads the reports: studio-runner reports QUEUE --key FILE",
        "for the runner's operator: studio-runner keys trust QUEUES FILE",
    ),
}

_passphrase_file = click.option("--passphrase-file", type=_FILE, metavar="FILE", help="File with the passphrase.")


@click.group("keys")
def command() -> None:
    """Make and inspect keys: to sign and seal messages, to open them, to read reports."""


@command.command("make")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("path", type=_FILE)
@click.option("--comment", metavar="TEXT", help="Comment of a signing key [default: you@this machine].")
@click.option("--passphrase", is_flag=True, help="Encrypt the private key with a passphrase that you type.")
@_passphrase_file
@json_option
def make(*, kind: str, path: Path, comment: str | None, as_json: bool, **secret: Any) -> None:
    """Make a pair of keys at PATH. No file is written over.

    A pair for signing is Ed25519, in PATH and PATH.pub: it says whose messages they are. One for encryption is RSA,
    in the directory PATH, laid out as --encrypt-dir takes it: it opens messages. One for reports is RSA, in PATH
    and PATH.pub: it opens reports.
    """
    from studio_runner.config.keys.making import PairFiles, write_pair
    from studio_runner.messages.keys import new_opening_key, new_signing_key

    files = PairFiles.of_runner(path) if kind == "encryption" else PairFiles.beside(path)
    files.refuse_existing()
    passphrase = _passphrase_for(files, **secret)
    with busy("making a key"):
        key = new_signing_key() if kind == "signing" else new_opening_key()
    write_pair(files, key, passphrase, _login() if comment is None else comment)
    kept = files.passphrase if passphrase else None
    if as_json:
        print_json({"kind": kind, "fingerprint": key.public.fingerprint, "private": files.private,
                    "public": files.public, "passphrase": kept})  # fmt: skip
        return
    click.echo(f"Made a key for {kind}, {key.public.fingerprint}")
    private, public = _NEXT[kind]
    stays = {f"{files.private}": private, f"{files.public}": public}
    print_fields(stays | ({f"{kept}": "its passphrase; stays with the runner"} if kept else {}))


@command.command("show")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@_passphrase_file
@json_option
@click.pass_obj
def show(session: Session, /, *, files: tuple[Path, ...], passphrase_file: Path | None, as_json: bool) -> int:
    """Say what key files are: kind, form, fingerprint, what they are for, and whether their modes are safe.

    Exits with 1 when one cannot be read, or can be used by others.
    """
    found, troubles = _reports(files, passphrase_file)
    if as_json:
        print_json([asdict(report) for report in found])
    else:
        for number, report in enumerate(found):
            if number:
                click.echo()
            print_fields(_fields(report))
    for trouble in troubles:
        tell(trouble, session.masker())
    return ExitCode.FAILED if troubles or any(report.trouble for report in found) else ExitCode.DONE


@command.command("fingerprint")
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE...")
@_passphrase_file
@json_option
@click.pass_obj
def fingerprint(
    session: Session, /, *, files: tuple[Path, ...], passphrase_file: Path | None, as_json: bool
) -> int:
    """Print the fingerprint of every key in these files, as messages carry it and `ssh-keygen -l` prints it."""
    found, troubles = _reports(files, passphrase_file)
    if as_json:
        print_json([{"file": report.file, "fingerprint": report.fingerprint} for report in found])
    else:
        for report in found:
            click.echo(report.fingerprint)
    for trouble in troubles:
        tell(trouble, session.masker())
    return ExitCode.FAILED if troubles else ExitCode.DONE


@command.command("trust")
@click.argument("queues")
@click.argument("file", type=_FILE)
@click.option("--add", is_flag=True, help="Keep the sender's key that is there: both count.")
@click.option("--replace", is_flag=True, help="Write over the key that is there.")
@with_settings("trust.request_signatures_dir", "trust.response_signatures_dir")
def trust(settings: Settings, *, queues: str, file: Path, add: bool, replace: bool) -> None:
    """Install the public key FILE for all queues whose names begin with QUEUES; a running runner sees it at once.

    A sender's key (Ed25519) goes into --request-signatures-dir: from then on these queues take messages only that
    it signed. The key of who reads reports (RSA) goes into --response-signatures-dir.
    """
    from studio_runner.config.keys.making import Earlier, install
    from studio_runner.config.keys.public import read_public_keys

    if add and replace:
        raise UsageError("--add keeps the key that is there, --replace removes it: choose one")
    keys = read_public_keys(file)
    if add and not keys.of_senders:
        raise UsageError(
            "Reports are sealed for one key", hint="--replace puts this one in the place of the other."
        )
    group = "request_signatures_dir" if keys.of_senders else "response_signatures_dir"
    directory = getattr(settings.trust, group)
    if directory is None:
        raise UsageError(f"Nobody said where such keys are kept: trust.{group} has no value", hint=_flag(group))
    earlier = Earlier.STAYS if add else Earlier.GOES if replace else Earlier.REFUSES
    path = install(keys, queues, directory, earlier)
    named = " or ".join(key.fingerprint for key in read_public_keys(path).keys)
    what = "take messages only that are signed by" if keys.of_senders else "have their reports sealed for"
    click.echo(f"{path}: queues that begin with {queues} {what} {named}")


def _flag(group: str) -> str:
    return f"--{group.replace('_', '-')} names a directory."


def _passphrase_for(files: "PairFiles", *, passphrase: bool, passphrase_file: Path | None) -> bytes | None:
    if passphrase_file is not None:
        return kept_in(passphrase_file)
    return chosen(files.private) if passphrase else None


def _reports(files: Sequence[Path], passphrase_file: Path | None) -> "tuple[list[KeyReport], list[KeyFileError]]":
    """Of the files that can be read, and what is the matter with the others."""
    from studio_runner.config.keys.report import reports_of

    found: list[KeyReport] = []
    troubles: list[KeyFileError] = []
    for file in files:
        try:
            found += reports_of(file, asked if passphrase_file is None else lambda _: kept_in(passphrase_file))
        except KeyFileError as error:
            troubles.append(error)
    return found, troubles


def _fields(report: "KeyReport") -> dict[str, object]:
    half = "private" if report.private else "public"
    lock = ", with a passphrase" if report.encrypted else ""
    found = {
        "file": report.file,
        "key": f"{report.kind}, {report.bits} bits, {half} ({report.form}{lock})",
        "fingerprint": report.fingerprint,
        "use": report.use,
        "note": report.note,
        "mode": report.mode if report.trouble else f"{report.mode}, good",
        "trouble": report.trouble,
    }
    return {name: value for name, value in found.items() if value}


def _login() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except OSError:  # a user id without a name
        return socket.gethostname()


for _command in command.commands.values():
    _command.params += common()
