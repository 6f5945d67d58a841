"""Passphrases of key files: from a file, or from who is at the terminal. Never an argument: `ps` shows those."""

import sys
from pathlib import Path

import click

from studio_runner.errors import KeyLockedError


def asked(path: Path) -> bytes:
    """What the person types for the key file `path`; KeyLockedError when there is nobody to type."""
    if not sys.stdin.isatty():
        raise KeyLockedError(
            "it is encrypted, and nobody is here to type its passphrase",
            hint="Name a file that holds it: signing_key_passphrase_path, or --passphrase-file.",
        )
    return str(click.prompt(f"Passphrase of {path}", hide_input=True, err=True)).encode()


def chosen(path: Path) -> bytes:
    """A new passphrase for the key file `path`, typed twice."""
    if not sys.stdin.isatty():
        raise KeyLockedError("Nobody is here to type a passphrase", hint="Name a file that holds it.")
    typed = click.prompt(f"New passphrase of {path}", hide_input=True, confirmation_prompt=True, err=True)
    return str(typed).encode()


def kept_in(path: Path) -> bytes:
    """The passphrase that a file holds, which only its owner may read."""
    from studio_runner.config.keys.files import passphrase_in

    found = passphrase_in(path)
    if not found:
        raise KeyLockedError(f"The file {path} holds no passphrase")
    return found
