"""The dot-commands: one decorated function each. Help, completion and the documentation read the table.

Comes after the editor has read a line that begins with a dot; most commands run a statement, as if it had been typed.
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from obeql.cli.output_formats import MODES, output_mode
from obeql.cli.repl.completion import Suggestion, paths
from obeql.cli.repl.names import Names
from obeql.cli.repl.sql_words import SQL_WORDS
from obeql.cli.repl.statement_help import STATEMENTS, find_statements, option_help, statement_help
from obeql.cli.scripts import read_script
from obeql.cli.wrapping import columns_of, table, wrapped
from obeql.errors import QueryError, QueryTypeError, UnknownNameError, nearest

if TYPE_CHECKING:
    from obeql.cli.repl.shell import Shell
    from obeql.results.result import Result

__all__ = ["COMMANDS", "Command", "command_words", "help_text", "run_command"]

#: What the arguments of a command are, for completion.
Completes = Literal["help", "runs", "tables", "modes", "devices", "switch", "paths", "statement", ""]


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table: `.name takes`, what it does in a few words, more about it, and what its arguments are."""

    name: str
    takes: str
    does: str
    more: str
    completes: Completes
    run: Callable[[Shell, list[str]], None]

    @property
    def usage(self) -> str:
        """Return how it is written."""
        return f".{self.name} {self.takes}".rstrip()


COMMANDS: dict[str, Command] = {}


def _command(
    name: str, takes: str = "", completes: Completes = ""
) -> Callable[[Callable[[Shell, list[str]], None]], Callable[[Shell, list[str]], None]]:
    """Put a function into the table; the first line of its docstring is what `.help` says, all of it `.help name`."""

    def register(function: Callable[[Shell, list[str]], None]) -> Callable[[Shell, list[str]], None]:
        does, _, more = (function.__doc__ or "").strip().partition("\n")
        COMMANDS[name] = Command(name, takes, does, " ".join(more.split()), completes, function)
        return function

    return register


def run_command(shell: Shell, line: str) -> None:
    """Carry out a line such as `.heat first_look 2`. Raises ObeqlError, and EOFError where it means to leave."""
    name, _, rest = line.strip().removesuffix(";").strip().partition(" ")
    name = f".{name[1:]}"  # \\h is .h
    command = COMMANDS.get(name[1:].lower()) or COMMANDS.get(_ALSO.get(name[1:].lower(), ""))
    if command is None:
        raise UnknownNameError(f"There is no command {name}; .help lists them.{nearest(name[1:], COMMANDS)}")
    try:
        as_typed = command.completes in ("statement", "help")
        arguments = [rest.strip()] if as_typed and rest.strip() else _split(command, rest)
    except ValueError as error:
        raise QueryError(f"{command.usage}: {error}") from None
    n_given = arguments.index(_WITH) if _WITH in arguments[-2:-1] else len(arguments)
    if n_given > len(command.takes.split()) and not as_typed:
        raise QueryError(f"{name} takes {command.takes or 'nothing'}, not {rest.strip()!r}")
    command.run(shell, arguments)


#: Other words for a command, which habit types; `\\h` is `.h`.
_ALSO = {
    "exit": "quit", "q": "quit", "h": "help", "?": "help", "d": "schema", "dt": "tables", "i": "read", "o": "output",
    "timing": "timer",
}  # fmt: skip

#: Stands before the options of a command, which are those of a statement and keep their quotes.
_WITH = "WITH"
_TAKE_OPTIONS = ("export",)


def _split(command: Command, rest: str) -> list[str]:
    """Return the arguments of a command; options come last, as one text after _WITH."""
    if command.name not in _TAKE_OPTIONS:
        return shlex.split(rest)
    found = re.search(r"(?i)(?:^|\s)with\s", rest)
    if found is None:
        return shlex.split(rest)
    return [*shlex.split(rest[: found.start()]), _WITH, rest[found.end() :].strip()]


def help_text(columns: int | None = None) -> str:
    """Return the text of `.help`, which fits a terminal of 80 columns and 24 lines."""
    statements = textwrap.fill(
        ", ".join(statement.name for statement in STATEMENTS), 78, initial_indent="  ", subsequent_indent="  "
    )
    rows = [(command.usage, command.does) for command in COMMANDS.values()]
    return "\n".join([wrapped(_INTRODUCTION, columns), statements, table(rows, columns), wrapped(_KEYS, columns)])


_INTRODUCTION = "A statement ends with ;  What is not OBEQL is SQL.  .help EXPLAIN tells all of:"
_KEYS = """\
Tab completes, the right arrow takes the gray suggestion, Ctrl-R searches.
Ctrl-C drops what is typed, or stops what runs and keeps what is stored."""


def command_words(line: str, names: Names) -> Iterator[Suggestion]:
    """Return what may come next in a line that begins with a dot."""
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
        case "help":
            words = (*(statement.name for statement in STATEMENTS), *COMMANDS)
            typed = rest
        case "runs":
            words = names.runs
        case "tables":
            words = names.tables
        case "modes":
            words = MODES
        case "devices":
            from obeql.planner.binding.settings import DEVICE_NAMES  # noqa: PLC0415

            words = DEVICE_NAMES
        case "switch":
            words = ("on", "off")
        case "paths":
            yield from paths(typed)
    yield from (Suggestion(word, "", len(typed)) for word in words if word.lower().startswith(typed.lower()))


# ---- the commands, in the order of `.help` ---------------------------------------------------------------------------


@_command("help", "[statement]", "help")
def _help(shell: Shell, arguments: list[str]) -> None:
    """this text, or a statement with its clauses
    With an example: .help EXPLAIN, .help CREATE MODEL. Also of a command or an option: .help heat, .help patch.
    \\h is the same.
    """
    columns = columns_of(sys.stdout)
    if not arguments:
        shell.write(help_text(columns))
        return
    asked = arguments[0].rstrip("; ")
    command = COMMANDS.get(asked.removeprefix(".").removeprefix("\\").lower())
    statements = find_statements(asked) if not asked.startswith(".") else []
    if command is not None and not any(asked.isupper() for _ in statements):
        more = f" {command.more}" if command.more else ""
        shell.write(wrapped(f"{command.usage}   {command.does}.{more}", columns))
    elif statements:
        shell.write("\n\n".join(statement_help(statement, columns) for statement in statements))
    elif said := option_help(asked, columns):
        shell.write(said)
    elif asked.split()[0].lower() in SQL_WORDS:
        shell.write(f"{asked.split()[0].upper()} is SQL, which DuckDB runs; its own pages describe it.")
    else:
        known = [statement.name for statement in STATEMENTS] + list(COMMANDS)
        raise UnknownNameError(f"There is no statement, command or option {asked!r}.{nearest(asked, known)}")


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
    """draw the maps of a run, or one of them
    The newest run without a name. Maps are counted from 0.
    """
    result = _result(shell, arguments[0] if arguments else None)
    if len(arguments) > 1:
        number = arguments[1]
        if not number.isdigit() or int(number) >= len(result):
            raise QueryTypeError(f"the run has {len(result)} maps, counted from 0; there is none of number {number!r}")
        result = result[int(number) : int(number) + 1]
    shell.draw(result)


@_command("export", "[run] [map] file [format]", "paths")
def _export(shell: Shell, arguments: list[str]) -> None:
    """write a run, by the suffix of the file
    Suffixes are .png .jpg .pdf .svg .html .gif .npz .npy .csv .parquet .json; with a format behind it, as in .export
    run maps npz, the file is a folder (.help EXPORT). A number writes that map alone; WITH takes the options of RENDER,
    as in .export run 0 map.gif WITH cmap=inferno.
    """
    given, options = (arguments[:-2], arguments[-1:]) if _WITH in arguments[-2:-1] else (arguments, [])
    from obeql.export.folders import FOLDER_FORMATS  # noqa: PLC0415 - imports pyarrow

    formats = [each.name for each in FOLDER_FORMATS]
    form = given.pop().lower() if len(given) > 1 and given[-1].lower() in formats else None
    if not given:
        raise QueryError(f"{COMMANDS['export'].usage}: say the file to write")
    if len(given) > 3:
        raise QueryTypeError(f"a folder is exported as {', '.join(formats)}, not as {given[-1]!r}")
    path, run = str(Path(given[-1]).expanduser()), given[0] if len(given) > 1 else None
    if len(given) == 3 and not given[1].isdigit():
        raise QueryTypeError(
            f"a folder is exported as {', '.join(formats)}, not as {given[-1]!r}; "
            f"a map is given by its number, from 0, not as {given[1]!r}"
        )
    if len(given) == 3:
        options = [f"map={given[1]}", *options]
    run_id, shown = int(_result(shell, run).run_id), "'{}'".format(path.replace("'", "''"))
    if options and form is not None:
        raise QueryTypeError("options and map numbers are for one file, without a format of folders")
    if options:
        text = f"RENDER {run_id} TO {shown} WITH {' '.join(options)}"
    else:
        text = f"EXPORT RUN {run_id} TO {shown}" + (f" FORMAT {form}" if form is not None else "")
    shell.write(str(shell.runner.session.execute(text)))


@_command("plan", "[statement]", "statement")
def _plan(shell: Shell, arguments: list[str]) -> None:
    """how an EXPLAIN OCCLUDE would be done
    That of the last one without a statement.
    """
    text = arguments[0] if arguments else shell.runner.last_explain
    if text is None:
        raise QueryError("no EXPLAIN OCCLUDE has run yet: .plan EXPLAIN OCCLUDE .. shows the plan of one")
    words = text.split()
    shell.runner.run(text if words[:1] and words[0].upper() == "PLAN" else f"PLAN {text}")


@_command("mode", "[mode]", "modes")
def _mode(shell: Shell, arguments: list[str]) -> None:
    """box, csv, json, jsonl, markdown or line
    How results are written; line shows every column in full, on a line of its own.
    """
    if arguments:
        shell.runner.mode = output_mode(arguments[0])
    shell.write(f"mode {shell.runner.mode}")


@_command("timer", "[on|off]", "switch")
def _timer(shell: Shell, arguments: list[str]) -> None:
    """whether seconds of statements are shown"""
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
    """results into a file, or to the screen
    Those of the statements that follow, with all rows and columns.
    """
    shell.write_to(Path(arguments[0]).expanduser() if arguments else None)
    shell.write(f"results go to {arguments[0] if arguments else 'the screen'}")


@_command("device", "[device]", "devices")
def _device(shell: Shell, arguments: list[str]) -> None:
    """the device of statements without ON
    auto, cpu, cuda, cuda:1 and what else .device lists.
    """
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
    """columns of a table or view, or of all"""
    if arguments:
        shell.runner.run('DESCRIBE "{}"'.format(arguments[0].replace('"', '""')))
        return
    shell.runner.run(
        "SELECT table_name, string_agg(column_name || ' ' || lower(data_type), ', ' ORDER BY column_index) AS columns "
        "FROM duckdb_columns() WHERE NOT internal AND schema_name <> 'obeql_store' GROUP BY table_name ORDER BY 1"
    )


@_command("ui")
def _ui(shell: Shell, arguments: list[str]) -> None:
    """open the page of this database in a browser
    It is served until the prompt is left; obeql ui --help has options.
    """
    page = shell.runner.session.ui()
    shell.write(f"the page is at {page.address}")


@_command("quit")
def _quit(shell: Shell, arguments: list[str]) -> None:
    """leave, as Ctrl-D does"""
    raise EOFError


#: The newest run that has maps, be they finished or not.
_NEWEST = "SELECT max(run_id) FROM obeql_store.run_maps WHERE run_id IN (SELECT run_id FROM runs)"


def _result(shell: Shell, run: str | None) -> Result:
    """Return the maps of a run by name or id, those of the newest one without."""
    if run is not None:
        return shell.runner.session.run(int(run) if run.isdigit() else run)
    if shell.runner.last_result is not None:
        return shell.runner.last_result
    # fetchall, because DuckDB 2 refuses other work on a connection while a result is not read to its end
    ((newest,),) = shell.runner.session.connection.execute(_NEWEST).fetchall()
    if newest is None:
        raise UnknownNameError("There is no run yet; EXPLAIN OCCLUDE makes one.")
    return shell.runner.session.run(int(newest))
