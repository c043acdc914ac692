"""What may come next: the grammar says which kinds of words, the database which names.

Comes while a text is typed. `suggest` is plain and tested alone; `StatementCompleter` hands it to prompt_toolkit. The
parser reads the last statement up to the word being typed, and nothing is asked of the database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from obeql.cli.repl.names import Names
from obeql.cli.repl.sql_words import SQL_WORDS
from obeql.cli.repl.statement_help import STATEMENTS, option_rows
from obeql.grammar import statements
from obeql.grammar.embedding import innermost
from obeql.grammar.scanner import Token, scan

if TYPE_CHECKING:
    from obeql.grammar import Expected
    from obeql.planner.binding.option_tables import OptionInfo
    from obeql.planner.binding.settings import SettingInfo

__all__ = ["StatementCompleter", "Suggestion", "suggest"]

#: Words after which SQL names a table.
_TABLE_FOLLOWS = ("from", "join", "table", "into", "update", "describe", "summarize")

#: Where models come from, for `FROM '`.
_MODEL_URIS = ("torchvision:", "timm:", "hf:", "python:")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A word that may stand in place of the last `replaces` characters, and what it is."""

    text: str
    kind: str
    replaces: int


def suggest(text: str, names: Names) -> list[Suggestion]:
    """Return what may come next after `text`, which ends at the cursor, best first."""
    tokens = _last_statement(text)
    if tokens and tokens[-1].kind == "comment" and not tokens[-1].closed:
        return []
    if tokens and tokens[-1].kind == "string" and not tokens[-1].closed:
        start = tokens[-1].start
        return list(_in_quotes(text[_first(tokens) : start], text[start + 1 :], names))
    typed = _typed(text)
    before = text[_first(tokens) if tokens else len(text) : len(text) - len(typed)]
    return list(_fitting(_words(before, typed, names), typed))


def _last_statement(text: str) -> list[Token]:
    """Return the tokens after the last `;`."""
    tokens: list[Token] = []
    for token in scan(text):
        if token.kind == "semicolon":
            tokens.clear()
        else:
            tokens.append(token)
    return tokens


def _first(tokens: list[Token]) -> int:
    return tokens[0].start


def _typed(text: str) -> str:
    """Return the word before the cursor: a name, a number, or `obeql.` and what follows it."""
    found = re.search(r"(?:\bobeql\s*\.\s*)?\w*$", text, re.IGNORECASE)
    return found.group() if found else ""


def _fitting(found: Iterable[tuple[str, str]], typed: str) -> Iterator[Suggestion]:
    """Yield those that begin with what is typed, then those that hold it; each once."""
    wanted = re.sub(r"\s", "", typed).lower()
    kinds: dict[str, str] = {}
    for word, kind in found:
        kinds.setdefault(word, kind)  # OBEQL's own word before SQL's
    all_found = list(kinds.items())
    begins = [each for each in all_found if each[0].lower().startswith(wanted)]
    holds = [each for each in all_found if each not in begins and len(wanted) > 1 and wanted in each[0].lower()]
    for word, kind in (*begins, *holds):
        if word.lower() != wanted or word.endswith("="):
            yield Suggestion(word, kind, len(typed))


def _words(before: str, typed: str, names: Names) -> Iterator[tuple[str, str]]:
    """Yield all that may follow `before` (one statement up to the word being typed), with what each one is."""
    from obeql.grammar import expected  # noqa: PLC0415 - lark is imported when the first word is typed
    from obeql.grammar.diagnose import keywords_of  # noqa: PLC0415

    found = expected(before)
    yield from ((word, kind) for word, kind in _names_for(found, names))
    if before.strip():
        yield from ((word, "keyword") for word in sorted(keywords_of(found.terminals), key=_by_use))
    else:
        yield from ((word, "statement") for word in _first_words(found, keywords_of))
    begin, is_obeql = innermost(before)
    if not is_obeql:
        yield from _sql(before[begin:], names)


def _by_use(word: str) -> tuple[bool, str]:
    """Order keywords by name, after the one that most statements have."""
    return word != "WITH", word


def _first_words(found: Expected, keywords_of: Callable[[Iterable[str]], frozenset[str]]) -> list[str]:
    """Return the words that begin OBEQL's statements, the most used ones first."""
    words = keywords_of(found.terminals)
    first = [word for word in ("EXPLAIN", "PREDICT", "CREATE", "PLAN", "SHOW") if word in words]
    return ["EXPLAIN OCCLUDE", *first, *sorted(words - set(first))]


def _names_for(found: Expected, names: Names) -> Iterator[tuple[str, str]]:
    """Yield names, options and values that the grammar allows here."""
    from obeql.planner.binding.clauses import METRICS  # noqa: PLC0415
    from obeql.planner.binding.settings import SETTINGS  # noqa: PLC0415

    types = [kind for kind, _ in found.read]
    last = types[-1] if types else ""
    if "SETTING" in found.terminals:
        yield from ((f"obeql.{row.name}", row.doc) for row in SETTINGS)
    if "OPTION" in found.terminals:
        given = {text.lower() for kind, text in found.read if kind == "OPTION"}
        yield from ((f"{row.name}=", row.takes) for row in _options(types) if row.name not in given)
    match last:
        case "_OCCLUDE" | "_PREDICT":
            yield from ((_quoted(name), "image set") for name in names.image_sets)
            yield from ((_quoted(name), "image") for name in names.images)
        case "_USING":
            yield from ((_quoted(name), "model") for name in names.models)
        case "KIND":
            is_model = found.read[-1][1].lower() == "model"
            known = names.models if is_model else names.image_sets
            yield from ((_quoted(name), "model" if is_model else "image set") for name in known)
        case _ if _follows_run(last):
            yield from ((_quoted(name), "run") for name in names.runs)
        case "_INTO" | "OR_REPLACE" if "_INTO" in types:
            yield from ((_quoted(name), "run") for name in names.runs)
        case "_METRIC":
            yield from ((name, "metric") for name in METRICS)
        case "_FORMAT":
            from obeql.export.folders import FOLDER_FORMATS  # noqa: PLC0415 - imports pyarrow

            yield from ((each.name.upper(), each.is_a) for each in FOLDER_FORMATS)
        case "_ON":
            from obeql.planner.binding.settings import DEVICE_NAMES  # noqa: PLC0415

            yield from ((name, "device") for name in DEVICE_NAMES)
    if "STRING" in found.terminals and _names_a_class(types):
        yield from ((f"'{name}'", "class") for name in _classes(found, names))
    if last in ("EQUAL", "_TO") and "NAME" in found.terminals:
        yield from ((word, "value") for word in _values(found, types))


def _options(types: list[str]) -> Iterable[OptionInfo | SettingInfo]:
    """Return the options of the statement whose first words are among these terminals."""
    words = {kind.lstrip("_") for kind in types}
    named = (each.options for each in STATEMENTS if each.options and words.issuperset(each.name.split()))
    return option_rows(next(named, ""))


def _follows_run(last: str) -> bool:
    """Return whether a run is named after this terminal: the last word of a statement about a run, or RUN."""
    return last == "RUN" or any(
        last.lstrip("_") == statement.about.name.split()[-1]
        for statement in statements.STATEMENTS
        if any(each.name == "run" for each in fields(statement))
    )


def _names_a_class(types: list[str]) -> bool:
    """Return whether a class may be named: right after CLASS, or between the parentheses of CLASSES."""
    if types and types[-1] in ("_CLASS", "_CLASSES"):
        return True
    return "_CLASSES" in types and types[-1] in ("LPAR", "COMMA") and "RPAR" not in types[types.index("_CLASSES") :]


def _classes(found: Expected, names: Names) -> tuple[str, ...]:
    """Return the classes of the model that the statement names."""
    types = [kind for kind, _ in found.read]
    if "_USING" not in types:
        return ()
    model = found.read[types.index("_USING") + 1][1].strip('"').lower()
    return names.classes.get(model, ())


def _values(found: Expected, types: list[str]) -> Iterator[str]:
    """Yield the words and numbers that an option or setting takes, as its table says them."""
    from obeql.planner.binding.settings import SETTINGS  # noqa: PLC0415
    from obeql.planner.logical.rules import RULE_NAMES  # noqa: PLC0415

    place = max(i for i, kind in enumerate(types) if kind in ("OPTION", "SETTING"))
    kind, name = found.read[place]
    name = re.sub(r"\s", "", name).lower().removeprefix("obeql.")
    rows: Iterable[OptionInfo | SettingInfo] = SETTINGS if kind == "SETTING" else _options(types)
    if name == "disabled_rules":
        yield from (f"'{rule}'" for rule in RULE_NAMES)
        return
    for row in rows:
        if row.name == name:
            yield from re.findall(r"\([^)]*\)|\[[^]]*\]|'[^']*'|[^\s,]+", row.takes)


def _quoted(name: str) -> str:
    """Return a name as it is written: bare, or in double quotes."""
    return name if re.fullmatch(r"[^\W\d]\w*", name) else '"' + name.replace('"', '""') + '"'


# ---- inside quotes: paths and classes ------------------------------------------------------------------------------


def _in_quotes(before: str, typed: str, names: Names) -> Iterator[Suggestion]:
    from obeql.grammar import expected  # noqa: PLC0415

    found = expected(before)
    types = [kind for kind, _ in found.read]
    if found.terminals and _names_a_class(types):
        for name in _classes(found, names):
            if name.lower().startswith(typed.lower()):
                yield Suggestion(f"{name}'", "class", len(typed))
        return
    if "_MODEL" in types and types[-1:] == ["_FROM"]:
        for scheme in _MODEL_URIS:
            if scheme.startswith(typed.lower()):
                yield Suggestion(scheme, "model uri", len(typed))
    yield from paths(typed)


def paths(typed: str) -> Iterator[Suggestion]:
    """Yield files and folders that begin with what is typed; hidden ones only after a dot."""
    head, _, tail = typed.rpartition("/")
    folder = Path(f"{head}/" if head or typed.startswith("/") else ".").expanduser()
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name.lower()))
    except OSError:
        return
    for entry in entries[:2000]:
        if entry.name.startswith(tail) and (tail.startswith(".") or not entry.name.startswith(".")):
            is_folder = entry.is_dir()
            yield Suggestion(entry.name + ("/" if is_folder else ""), "folder" if is_folder else "file", len(tail))


# ---- SQL -----------------------------------------------------------------------------------------------------------


def _sql(before: str, names: Names) -> Iterator[tuple[str, str]]:
    words = re.findall(r"\w+", before.lower())
    if before.rstrip().endswith("("):
        yield from ((word, "rows of a statement") for word in ("EXPLAIN OCCLUDE", "PREDICT"))
    if words and words[-1] in _TABLE_FOLLOWS and not before.rstrip().endswith("("):
        yield from ((_quoted(name), "table") for name in names.tables)
        yield from ((name, "function") for name in names.functions)
        return
    if words:
        yield from ((_quoted(name), "column") for name in names.columns)
    yield from ((word.upper(), "SQL") for word in SQL_WORDS)
    if words:
        yield from ((_quoted(name), "table") for name in names.tables)
        yield from ((name, "function") for name in names.functions)


# ---- prompt_toolkit ------------------------------------------------------------------------------------------------


class StatementCompleter(Completer):
    """Completes statements by `suggest`, and dot-commands by what `command_words` says of them."""

    def __init__(self, names: Callable[[], Names], command_words: Callable[[str], Iterable[Suggestion]]) -> None:
        self._names = names
        self._command_words = command_words

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if text.lstrip().startswith((".", "\\")) and "\n" not in text:
            found = list(self._command_words(f".{text.lstrip()[1:]}"))
        elif not complete_event.completion_requested and not _typed(text) and not text.endswith(("=", "'", "/")):
            return  # while typing, a menu opens with the first letter of a word
        else:
            found = suggest(text, self._names())
        for each in found:
            yield Completion(each.text, -each.replaces, display_meta=each.kind)
