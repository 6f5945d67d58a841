"""Options that several commands share: the settings as flags, and `--json`."""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from studio_runner.cli.session import Session
from studio_runner.config import kinds
from studio_runner.config.options import OPTIONS, Option

if TYPE_CHECKING:
    from studio_runner.config.cascade import Configuration

Callback = Callable[..., Any]


class SettingOption(click.Option):
    """A setting as a flag. Its value is understood where all settings are, so that there is one error for one
    mistake, wherever it was made."""

    def __init__(self, option: Option) -> None:
        switch = option.kind is kinds.SWITCH
        names = "/".join([f"--{option.flags[0]}", f"--no-{option.flags[0]}"]) if switch else f"--{option.flags[0]}"
        super().__init__(
            [names, *(f"--{alias}" for alias in option.flags[1:])],
            is_flag=switch or None,
            default=None,
            type=click.BOOL if switch else click.STRING,
            metavar=None if switch else option.kind.metavar,
            help=option.help,
            expose_value=False,
            callback=self._remember,
        )
        self.setting = option

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """With what counts when the flag is not given: the default, and the variables."""
        from studio_runner.config.cascade import default_of

        record = super().get_help_record(ctx)
        if record is None:
            return None
        default = default_of(self.setting) or "none"
        return record[0], f"{record[1]}  [default: {default}; {', '.join(self.setting.variables)}]"

    def _remember(self, context: click.Context, _parameter: click.Parameter, value: object) -> None:
        if value is not None and isinstance(context.obj, Session):
            context.obj.flags[self.setting.key] = value


def with_settings(*groups: str, level: str = "warning") -> Callable[[Callback], Callback]:
    """Give a command the settings as its first argument, and the flags of these groups (`"places"`) or single
    settings (`"queues.match"`).

    `level` is the log level where nobody chose one: a command that a person waits for says little of itself.
    """

    def decorate(function: Callback) -> Callback:
        @functools.wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            from studio_runner.cli import discretion, logging

            session = click.get_current_context().ensure_object(Session)
            configuration = session.configuration()
            session.hide(functools.partial(_own_secrets, configuration, session))
            logging.configure(configuration, level, session.masker)
            discretion.keep_files(session)
            return function(configuration.settings, *args, **kwargs)

        shown = [option for option in OPTIONS if option.flags and {option.group, option.key} & {*groups}]
        return _add(command, [SettingOption(option) for option in shown])

    return decorate


def _own_secrets(configuration: "Configuration", session: Session) -> Iterable[str]:
    from studio_runner.cli.own_secrets import values

    return values(configuration, session.environ)


def json_option(function: Callback) -> Callback:
    """`--json`, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def _add(function: Callback, options: list[SettingOption]) -> Callback:
    """Put the options behind those that the function already has, as click's own decorators keep them."""
    kept: list[click.Parameter] = list(getattr(function, "__click_params__", ()))
    function.__click_params__ = [*reversed(options), *kept]  # type: ignore[attr-defined]
    return function
