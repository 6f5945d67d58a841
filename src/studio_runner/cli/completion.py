"""`studio-runner completion SHELL`."""

import click
from click.shell_completion import get_completion_class

from studio_runner.cli.common import COMPLETE, NAME
from studio_runner.errors import UsageError

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    For bash: eval "$(studio-runner completion bash)"
    """
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"There is no completion for {shell}", hint=f"There is one for {', '.join(SHELLS)}.")
    click.echo(found(context.find_root().command, {}, NAME, COMPLETE).source())
