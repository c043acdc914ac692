"""The dot-commands: one decorated function each. Help, completion and the documentation read the table.

Comes after the editor has read a line that begins with a dot; most commands run a statement, as if it had been typed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from obeql.errors import QueryError, QueryTypeError, UnknownNameError, nearest
from obeql.grammar.syntax import EXPORT_FORMATS
from obeql.output import MODES, output_mode
from obeql.repl.completion import Suggestion, paths
from obeql.repl.names import Names
from obeql.scripts import read_script

if TYPE_CHECKING:
    from obeql.repl.shell import Shell
    from obeql.result import Result

__all__ = ["COMMANDS", "Command", "command_words", "help_text", "run_command"]

#: What the arguments of a command are, for completion.
Completes = Literal["commands", "runs", "tables", "modes", "devices", "switch", "paths", "statement", ""]


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: `.name takes`, what it does, and what its arguments are."""

    name: str
    takes: str
    does: str
    completes: Completes
    run: Callable[[Shell, list[str]], None]

    @property
    def usage(self) -> str:
        """How it is written."""
        return f".{self.name} {self.takes}".rstrip()


COMMANDS: dict[str, Command] = {}


def _command(
    name: str, takes: str = "", completes: Completes = ""
) -> Callable[[Callable[[Shell, list[str]], None]], Callable[[Shell, list[str]], None]]:
    """Put a function into the table; its docstring is what `.help` says."""

    def register(function: Callable[[Shell, list[str]], None]) -> Callable[[Shell, list[str]], None]:
        COMMANDS[name] = Command(name, takes, (function.__doc__ or "").strip(), completes, function)
        return function

    return register


def run_command(shell: Shell, line: str) -> None:
    """Carry out a line such as `.heat first_look 2`. Raises ObeqlError, and EOFError where it means to leave."""
    name, _, rest = line.strip().removesuffix(";").strip().partition(" ")
    command = COMMANDS.get(name[1:].lower()) or COMMANDS.get(_ALSO.get(name[1:].lower(), ""))
    if command is None:
        raise UnknownNameError(f"There is no command {name}; .help lists them.{nearest(name[1:], COMMANDS)}")
    try:
        arguments = [rest.strip()] if command.completes == "statement" and rest.strip() else shlex.split(rest)
    except ValueError as error:
        raise QueryError(f"{command.usage}: {error}") from None
    if len(arguments) > len(command.takes.split()) and command.completes != "statement":
        raise QueryError(f"{name} takes {command.takes or 'nothing'}, not {rest.strip()!r}")
    command.run(shell, arguments)


#: Other words for a command, which habit types.
_ALSO = {"exit": "quit", "q": "quit", "h": "help", "?": "help"}


def help_text() -> str:
    """The text of `.help`."""
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"  {command.usage:<{width}}   {command.does}" for command in COMMANDS.values()]
    return "\n".join([_INTRODUCTION, "", *lines, "", _KEYS])


_INTRODUCTION = """\
A statement may span several lines and ends with a semicolon. What is not OBEQL is SQL, and DuckDB runs it.

  CREATE MODEL name FROM 'model.onnx';              a network: ONNX, .pt2, torchvision:name, timm:name, python:m:f
  CREATE IMAGES name FROM 'folder/*.jpg';           pictures: a glob or a SELECT of paths
  PREDICT images USING model;                       what the network says
  EXPLAIN OCCLUDE images USING model WITH patch=16; heat maps;  put PLAN in front to see how, and how long
  RENDER run TO 'maps.png';                         draw a run
  SHOW MODELS | IMAGES | RUNS | DEVICES | OPERATORS;"""
_KEYS = """\
Tab completes, the right arrow takes the grey suggestion, Ctrl-R searches the history, Alt-Enter begins a line.
Ctrl-C drops the statement being typed, or stops the one that runs; what a run has stored is kept. Ctrl-D leaves."""


def command_words(line: str, names: Names) -> Iterator[Suggestion]:
    """What may come next in a line that begins with a dot."""
    name, blank, rest = line.partition(" ")
    if not blank:
        yield from (
            Suggestion(f".{command.name}", command.does, len(line))
            for command in COMMANDS.values()
            if command.name.startswith(name[1:].lower())
        )
        return
    command = COMMANDS.get(name[1:].lower())
    typed = rest.rpartition(" ")[2]
    words: tuple[str, ...] = ()
    match command.completes if command is not None else "":
        case "commands":
            words = tuple(COMMANDS)
        case "runs":
            words = names.runs
        case "tables":
            words = names.tables
        case "modes":
            words = MODES
        case "devices":
            from obeql.planner.settings import DEVICE_NAMES  # noqa: PLC0415

            words = DEVICE_NAMES
        case "switch":
            words = ("on", "off")
        case "paths":
            yield from paths(typed)
    yield from (Suggestion(word, "", len(typed)) for word in words if word.lower().startswith(typed.lower()))


# ---- the commands, in the order of `.help` ---------------------------------------------------------------------------


@_command("help", "[command]", "commands")
def _help(shell: Shell, arguments: list[str]) -> None:
    """this text, or one command's"""
    if not arguments:
        shell.write(help_text())
        return
    command = COMMANDS.get(arguments[0].removeprefix(".").lower())
    if command is None:
        raise UnknownNameError(f"There is no command {arguments[0]!r}.{nearest(arguments[0], COMMANDS)}")
    shell.write(f"{command.usage}   {command.does}")


@_command("models")
def _models(shell: Shell, arguments: list[str]) -> None:
    """the models: SHOW MODELS"""
    shell.runner.run("SHOW MODELS")


@_command("images")
def _images(shell: Shell, arguments: list[str]) -> None:
    """the image sets: SHOW IMAGES"""
    shell.runner.run("SHOW IMAGES")


@_command("runs")
def _runs(shell: Shell, arguments: list[str]) -> None:
    """the runs: SHOW RUNS"""
    shell.runner.run("SHOW RUNS")


@_command("heat", "[run] [map]", "runs")
def _heat(shell: Shell, arguments: list[str]) -> None:
    """draw the maps of a run (the newest without a name), or the one of this number, counted from 0"""
    result = _result(shell, arguments[0] if arguments else None)
    if len(arguments) > 1:
        number = arguments[1]
        if not number.isdigit() or int(number) >= len(result):
            raise QueryTypeError(f"the run has {len(result)} maps, counted from 0; there is none of number {number!r}")
        result = result[int(number) : int(number) + 1]
    shell.draw(result)


@_command("export", "[run] file [format]", "paths")
def _export(shell: Shell, arguments: list[str]) -> None:
    """write a run: .png .jpg .pdf .svg .html .gif .csv .parquet .json .npz; with parquet, npz or png into a folder"""
    form = arguments.pop().lower() if len(arguments) > 1 and arguments[-1].lower() in EXPORT_FORMATS else None
    if not arguments:
        raise QueryError(f"{COMMANDS['export'].usage}: say the file to write")
    if len(arguments) > 2:
        raise QueryTypeError(f"a folder is exported as {', '.join(EXPORT_FORMATS)}, not as {arguments[-1]!r}")
    path = Path(arguments[-1]).expanduser()
    result = _result(shell, arguments[0] if len(arguments) > 1 else None)
    suffix = path.suffix.lower()
    if form is not None:
        files = result.export(path, form)
        shell.write(f"wrote {len(files)} file{'s' if len(files) != 1 else ''} into {path}")
        return
    if suffix in (".csv", ".parquet", ".json"):
        shown = str(path).replace("'", "''")
        run_id = int(result.run_id)
        shell.runner.session.connection.execute(f"COPY (SELECT * FROM cells WHERE run_id = {run_id}) TO '{shown}'")
    elif suffix == ".html":
        result.report(path)
    elif suffix in (".gif", ".apng"):
        if len(result) != 1:
            raise QueryTypeError(f"a film shows one map; the run has {len(result)}: slice the result in Python")
        result[0].animate(path)
    else:
        result.save(path)
    shell.write(f"wrote {path}")


@_command("plan", "[statement]", "statement")
def _plan(shell: Shell, arguments: list[str]) -> None:
    """how an EXPLAIN OCCLUDE would be carried out; of the last one without a statement"""
    text = arguments[0] if arguments else shell.runner.last_explain
    if text is None:
        raise QueryError("no EXPLAIN OCCLUDE has run yet: .plan EXPLAIN OCCLUDE .. shows the plan of one")
    words = text.split()
    shell.runner.run(text if words[:1] and words[0].upper() == "PLAN" else f"PLAN {text}")


@_command("mode", "[mode]", "modes")
def _mode(shell: Shell, arguments: list[str]) -> None:
    """how results are written: box, csv, json, jsonl, markdown or line"""
    if arguments:
        shell.runner.mode = output_mode(arguments[0])
    shell.write(f"mode {shell.runner.mode}")


@_command("timer", "[on|off]", "switch")
def _timer(shell: Shell, arguments: list[str]) -> None:
    """whether the seconds of each statement are shown"""
    if arguments and arguments[0].lower() not in ("on", "off"):
        raise QueryTypeError(f"{COMMANDS['timer'].usage}, not {arguments[0]!r}")
    shell.runner.timer = arguments[0].lower() == "on" if arguments else not shell.runner.timer
    shell.write(f"timer {'on' if shell.runner.timer else 'off'}")


@_command("read", "file", "paths")
def _read(shell: Shell, arguments: list[str]) -> None:
    """run the statements of a script"""
    if not arguments:
        raise QueryError(f"{COMMANDS['read'].usage}: say the script to run")
    shell.runner.run(read_script(arguments[0]))


@_command("output", "[file]", "paths")
def _output(shell: Shell, arguments: list[str]) -> None:
    """write the results that follow into a file; to the screen again without one"""
    shell.write_to(Path(arguments[0]).expanduser() if arguments else None)
    shell.write(f"results go to {arguments[0] if arguments else 'the screen'}")


@_command("device", "[device]", "devices")
def _device(shell: Shell, arguments: list[str]) -> None:
    """the device of statements without ON: auto, cpu, cuda, cuda:1; what there is without one"""
    if not arguments:
        shell.runner.run("SHOW DEVICES")
        shell.write(f"obeql.device = {shell.runner.session.setting('device')}")
        return
    shell.runner.run("SET obeql.device = '{}'".format(arguments[0].replace("'", "''")))


@_command("tables")
def _tables(shell: Shell, arguments: list[str]) -> None:
    """tables and views"""
    shell.runner.run("SHOW TABLES")


@_command("schema", "[table]", "tables")
def _schema(shell: Shell, arguments: list[str]) -> None:
    """the columns of a table or view, or of all of them"""
    if arguments:
        shell.runner.run('DESCRIBE "{}"'.format(arguments[0].replace('"', '""')))
        return
    shell.runner.run(
        "SELECT table_name, string_agg(column_name || ' ' || lower(data_type), ', ' ORDER BY column_index) AS columns "
        "FROM duckdb_columns() WHERE NOT internal AND schema_name <> 'obeql_store' GROUP BY table_name ORDER BY 1"
    )


@_command("quit")
def _quit(shell: Shell, arguments: list[str]) -> None:
    """leave, as Ctrl-D does"""
    raise EOFError


def _result(shell: Shell, run: str | None) -> Result:
    """The maps of a run by name or id, those of the newest one without."""
    if run is not None:
        return shell.runner.session.run(int(run) if run.isdigit() else run)
    if shell.runner.last_result is not None:
        return shell.runner.last_result
    # fetchall, because DuckDB 2 refuses other work on a connection while a result is not read to its end
    ((newest,),) = shell.runner.session.connection.execute("SELECT max(run_id) FROM runs WHERE n_maps > 0").fetchall()
    if newest is None:
        raise UnknownNameError("There is no run yet; EXPLAIN OCCLUDE makes one.")
    return shell.runner.session.run(int(newest))
