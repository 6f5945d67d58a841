import io
import json
import logging
import subprocess
import sys

import click
import pytest

from studio_runner.cli import main, output, table
from studio_runner.cli.logging import JsonFormatter, TextFormatter
from studio_runner.cli.options import SettingOption, json_option, with_settings
from studio_runner.config.options import OPTIONS
from studio_runner.errors import BrokerError, ConfigError, NotFoundError
from studio_runner.messages.masking import Masker
from studio_runner.runner.context import concerning
from studio_runner.runner.daemon import Tally


@pytest.fixture
def call(_same_log, tmp_path, monkeypatch, capsys):
    """Run a command line against an empty home: (exit code, stdout, stderr)."""
    monkeypatch.setattr("studio_runner.config.cascade.SYSTEM_FILE", tmp_path / "none.toml")

    def calling(*arguments, **environ):
        code = main.call(arguments, {"HOME": str(tmp_path), **environ})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return calling


@pytest.fixture
def with_command(monkeypatch):
    """Put one command into the table whose body is the given function."""

    def adding(function, *decorators):
        for decorator in decorators:
            function = decorator(function)
        monkeypatch.setitem(table.COMMANDS, "probe", table.Entry("probe", "For a test.", table.RUNNER))
        module = type(sys)("studio_runner.cli.probe")
        module.command = click.command()(function)
        monkeypatch.setitem(sys.modules, "studio_runner.cli.probe", module)

    return adding


def raising(error):
    def body():
        raise error

    return body


def test_the_version_needs_nothing_but_click(tmp_path):
    code = "import sys; from studio_runner.cli import main; sys.argv[1:] = ['--version']\n"
    code += "try: main.main()\nexcept SystemExit as end: print(end.code, *sorted(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert found.startswith("studio-runner ")
    modules = found.splitlines()[1].split()
    assert modules[0] == "0"
    for heavy in ("asyncio", "pydantic", "rich", "yaml", "psutil", "starlette", "tomllib", "studio_runner.config"):
        assert heavy not in modules


def test_every_listed_command_can_be_loaded_and_explains_itself():
    for name in table.COMMANDS:
        command = table.load(name)

        assert command.name == name
        assert command.help, name


def test_every_command_takes_debug_and_config():
    for name in table.COMMANDS:
        command = table.load(name)
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in commands:
            assert {"debug", "config"} <= {parameter.name for parameter in one.params}, name


def test_help_lists_the_commands_in_sections(call):
    code, out, _ = call("--help")

    assert code == 0
    assert out.index("Experiments:") < out.index("  submit") < out.index("Runner:") < out.index("  doctor")


@pytest.mark.parametrize("word", ["satrt", "sumbit", "dcotor"])
def test_a_mistyped_command_gets_a_suggestion(call, word):
    code, _, err = call(word)

    assert code == 2
    assert "did you mean" in err


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--k8s-configmap", "Kubernetes"), ("--k8s-namespace", "Kubernetes")],
)
def test_a_flag_that_this_release_cannot_honour_is_refused_with_a_reason(call, flag, words):
    code, _, err = call("start", flag, "x")

    assert code == 2
    assert "No such option" in err
    assert words in err


@pytest.fixture
def started(monkeypatch):
    """Settings with which `start` would serve."""
    seen = []

    async def serve(settings, _secrets):
        seen.append(settings)
        return Tally({})

    monkeypatch.setattr("studio_runner.runner.daemon.serve", serve)
    return seen


@pytest.mark.parametrize(
    "arguments",
    [
        ["--queue-root", "/q", "--schema-logs", "--no-generate-metadata", "--debug"],
        ["-queue-root", "/q", "-schema-logs", "-generate-metadata=false", "-debug"],
        ["-queue-root=/q", "--schema-logs=true", "--generate-metadata=0", "--debug=true"],
    ],
)
def test_start_reads_the_spellings_of_existing_runners(call, started, arguments):
    code, _, err = call("start", *arguments, "--prom-address=none", "--debug=false")

    assert code == 0, err
    (settings,) = started
    assert str(settings.places.queue_root) == "/q"
    assert (settings.experiments.schema_logs, settings.experiments.generate_metadata) == (True, False)
    assert (settings.log.level, settings.http.address) == ("debug", "")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("-keep=perhaps", "accepted is true or false"),
        ("-k8s-configmap=x", "Kubernetes"),
        ("-s3-scheme=ftp", "accepted is http or https"),
        ("-nonsense", "No such option"),
    ],
)
def test_start_refuses_what_it_cannot_read(call, started, argument, words):
    code, _, err = call("start", argument)

    assert code == 2
    assert words in err
    assert not started


def test_start_warns_of_variables_that_do_nothing(call, started):
    _, _, err = call("start", "--http-address=none", K8S_NAMESPACE="/hunter2", STUDIO_RUNNER_LAESE="3")

    assert "K8S_NAMESPACE is set and does nothing" in err
    assert "did you mean STUDIO_RUNNER_LEASE?" in err
    assert "hunter2" not in err


def test_start_takes_brokers_and_stores_as_existing_runners_do(call, started):
    code, _, err = call(
        "start", "-amqp-url=amqp://user:hunter2@x/", "--http-address=none", S3_CA="/ca.pem", SQS_CERTS="/aws"
    )

    assert code == 0, err
    (settings,) = started
    assert settings.queues.amqp_url == "amqp://user:hunter2@x/"
    assert (str(settings.storage.ca), str(settings.queues.sqs_certs)) == ("/ca.pem", "/aws")
    assert "hunter2" not in err


def test_flags_reach_the_settings_and_the_last_source_wins(call, with_command):
    seen = []
    with_command(seen.append, with_settings("queues", "http", "experiments.keep"))

    code, _, err = call("probe", "--queue-match", "^x$", "--prom-address", ":80", "--keep", QUEUE_MATCH="^y$")

    assert (code, err) == (0, "")
    assert (seen[0].queues.match, seen[0].http.address, seen[0].experiments.keep) == ("^x$", "0.0.0.0:80", True)


def test_a_bad_flag_value_names_the_flag_and_what_is_accepted(call, with_command):
    with_command(lambda settings: None, with_settings("queues"))

    code, _, err = call("probe", "--lease", "soon")

    assert code == 2
    assert "queues.lease (flag --lease) is 'soon': accepted is a duration" in err


def test_the_configuration_file_can_be_named_before_and_after_the_command(call, with_command, tmp_path):
    seen = []
    with_command(lambda settings: seen.append(settings.queues.deliveries), with_settings())
    (tmp_path / "c.toml").write_text("[queues]\ndeliveries = 9\n")

    call("--config", str(tmp_path / "c.toml"), "probe")
    call("probe", "--config", str(tmp_path / "c.toml"))

    assert seen == [9, 9]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("No experiment 'x'"), 1),
        (ConfigError("The setting a is b"), 2),
        (BrokerError("The queue root cannot be read"), 3),
        (ExceptionGroup("tasks", [BrokerError("The queue root cannot be read")]), 3),
    ],
)
def test_an_error_is_one_sentence_with_its_exit_code(call, with_command, error, code):
    with_command(raising(error))

    found, out, err = call("probe")

    assert found == code
    assert out == ""
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


def test_the_hint_follows_the_error(call, with_command):
    with_command(raising(NotFoundError("No queue 'x'", hint="There are: local_a.")))

    assert call("probe")[2] == "Error: No queue 'x'\nHint: There are: local_a.\n"


def test_debug_shows_where_an_error_came_from(call, with_command):
    with_command(raising(NotFoundError("No queue 'x'")))

    code, _, err = call("probe", "--debug")

    assert code == 1
    assert "Traceback" in err
    assert "in body" in err


def test_a_bug_leaves_its_traceback_in_a_file_that_only_the_user_reads(call, with_command, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with_command(raising(ZeroDivisionError("division by zero")))

    code, _, err = call("probe")

    assert code == 3
    assert "Error: ZeroDivisionError: division by zero" in err
    assert "bug in studio-runner" in err
    (kept,) = tmp_path.glob("*.traceback")
    assert str(kept) in err
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ExceptionGroup("tasks", [error])])
def test_a_file_that_cannot_be_used_is_no_bug(call, with_command, wrap):
    with_command(raising(wrap(PermissionError(13, "Permission denied", "/srv/queue"))))

    code, _, err = call("probe")

    assert code == 3
    assert err.startswith("Error: Permission denied: /srv/queue\nHint: `studio-runner doctor`")


def test_an_error_cannot_write_to_the_terminal(call, with_command):
    with_command(raising(NotFoundError("No queue '\x1b[2J\nfoo'")))

    assert call("probe")[2] == "Error: No queue '?[2J?foo'\n"


def test_ctrl_c_is_130(call, with_command):
    with_command(raising(KeyboardInterrupt()))

    assert call("probe")[0] == 130


def test_the_commands_own_exit_code_is_kept(call, with_command):
    with_command(lambda: 17)

    assert call("probe")[0] == 17


def test_config_show_says_where_each_value_comes_from(call, tmp_path):
    (tmp_path / "c.toml").write_text("[http]\ntoken = 'hunter2'\n")

    code, out, _ = call("config", "show", "--config", str(tmp_path / "c.toml"), MAX_CORES="2", HOME="/h")

    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert code == 0
    assert lines["machine.max_cores"] == ["2", "environment", "MAX_CORES"]
    assert lines["places.home"] == ["/h/.studioml", "default"]
    assert lines["http.token"] == ["********", str(tmp_path / "c.toml")]
    assert "hunter2" not in out


def test_config_show_as_json_has_plain_numbers(call):
    _, out, _ = call("config", "show", "--json", MAX_MEM="2gb", STUDIO_RUNNER_HTTP_TOKEN="hunter2")

    document = json.loads(out)
    assert document["settings"]["machine.max_mem"] == {"value": 2_000_000_000, "from": "environment MAX_MEM"}
    assert document["settings"]["queues.lease"]["value"] == 15.0
    assert "hunter2" not in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(call, shell):
    code, out, _ = call("completion", shell)

    assert code == 0
    assert "_STUDIO_RUNNER_COMPLETE" in out


def test_help_shows_the_default_and_the_variables_of_a_setting(call):
    _, out, _ = call("start", "--help")

    flat = " ".join(out.split())
    assert "[default: 15s; STUDIO_RUNNER_LEASE]" in flat
    assert "[default: {home}/queue; STUDIO_RUNNER_QUEUE_ROOT, QUEUE_ROOT]" in flat


def test_every_setting_with_a_flag_can_be_given_to_start():
    shown = {
        parameter.setting.key for parameter in table.load("start").params if isinstance(parameter, SettingOption)
    }

    assert shown == {option.key for option in OPTIONS if option.flags}


def test_plain_tables_are_aligned_and_harmless(capsys):
    output.print_table(("name", "count"), [("a\x1b[31m", 1), ("long name", 1000)], right=("count",))

    assert capsys.readouterr().out == "NAME       COUNT\na?[31m         1\nlong name   1000\n"


def test_a_table_on_a_terminal_shows_the_same_cells(monkeypatch, capsys):
    monkeypatch.setattr(output, "watched", lambda: True)

    output.print_table(("name", "count"), [("[bold]x[/bold]", 1)], right=("count",))

    assert capsys.readouterr().out.split() == ["NAME", "COUNT", "[bold]x[/bold]", "1"]


def test_json_output_is_given_to_the_command(call, with_command):
    with_command(lambda as_json: output.print_json({"as_json": as_json}), json_option)

    assert json.loads(call("probe", "--json")[1]) == {"as_json": True}
    assert json.loads(call("probe")[1]) == {"as_json": False}


@pytest.fixture
def record():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("studio_runner.test")  # noqa: LOG001  known to nobody else
    logger.addHandler(handler)

    def logging_with(formatter, *args, **kwargs):
        handler.setFormatter(formatter)
        logger.info(*args, **kwargs)
        return stream.getvalue()

    return logging_with


def test_the_log_says_which_experiment_it_is_about(record):
    with concerning("1530054412_x", 2, "local_q"):
        line = record(TextFormatter(Masker), "running %s", "train.py")

    assert line.endswith("INFO    running train.py [experiment=1530054412_x attempt=2 queue=local_q]\n")


def test_the_json_log_is_one_object_per_line(record):
    with concerning("1530054412_x", 2, "local_q"):
        line = record(JsonFormatter(Masker), "line\nbreak", extra={"action": "start"})

    document = json.loads(line)
    assert line.count("\n") == 1
    assert document["message"] == "line\nbreak"
    assert (document["experiment"], document["attempt"], document["action"]) == ("1530054412_x", 2, "start")


HOSTILE = "a\nb\x1b[2J\x9b2J\u202e\x7f\r"


def test_what_others_wrote_makes_no_line_of_the_log_and_no_order_to_the_terminal(record):
    line = record(TextFormatter(Masker), "left: %s", HOSTILE, extra={"queue": HOSTILE})

    assert line.endswith(
        r"left: a\nb\u001b[2J\u009b2J\u202e\u007f\r [queue=a\nb\u001b[2J\u009b2J\u202e\u007f\r]" + "\n"
    )
    assert line.count("\n") == 1


@pytest.mark.parametrize("kind", [TextFormatter, JsonFormatter])
def test_a_secret_of_several_lines_is_hidden_in_the_log(record, kind):
    secret = 'canary "one"\ncanary two'
    error = ValueError(secret)
    line = record(kind(lambda: Masker([secret])), "it is %s", secret, extra={"queue": secret}, exc_info=error)
    assert "canary" not in line
    assert line.count("***") == 3


def test_a_line_that_cannot_be_made_shows_nothing_of_what_it_was_about(call, with_command, monkeypatch):
    def body(_settings):
        root = logging.getLogger()
        monkeypatch.setattr(root, "handlers", root.handlers[-1:])  # those of the tests raise
        logging.getLogger("studio_runner.probe").error("%d steps", "canary")

    with_command(body, with_settings("log"))
    code, _, err = call("probe")

    assert code == 0
    assert "a line of the log is lost: TypeError (studio_runner.probe, line " in err
    assert "canary" not in err


def test_json_is_the_same_and_harmless(record, capsys):
    line = record(JsonFormatter(Masker), "%s", HOSTILE)
    output.print_json({"name": HOSTILE})
    printed = capsys.readouterr().out

    assert json.loads(line)["message"] == json.loads(printed)["name"] == HOSTILE
    assert line.strip().isprintable()
    assert all(map(str.isprintable, printed.splitlines()))
