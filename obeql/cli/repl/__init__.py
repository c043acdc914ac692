"""The prompt of `obeql`: type statements and dot-commands, see results, maps and errors.

Comes before the session. `editor` reads a text with prompt_toolkit (`highlighting` colors it, `completion` completes
it), `shell` runs it, `commands` is the table of dot-commands, `background` opens the database and imports torch while
the first text is typed.
"""

from obeql.cli.repl.shell import Shell, start

__all__ = ["Shell", "start"]
