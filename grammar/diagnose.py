"""Says in human words why a statement does not parse.

Before: lark has failed on a statement. After: the `QuerySyntaxError` made here reaches the user.

lark speaks of terminals; here each has its words, and the stretch of text where it failed is read again for
the mistakes people make: a misspelt keyword, a name that needs quotes, an option without its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from obeql.errors import QuerySyntaxError, nearest

END = "$END"

#: words for the terminals that are no keywords
_PHRASES = {
    END: "the end of the statement",
    "NAME": "a name",
    "QUOTED": "a name",
    "STRING": "a string in single quotes",
    "SUBQUERY": "a SELECT in parentheses",
    "PARAMETER": "a parameter (? or $name)",
    "INT": "a whole number",
    "FLOAT": "a number",
    "SIZES": "sizes such as 16x24",
    "SIZE": "a size such as 2GB",
    "OPTION": "an option such as patch=16",
    "SETTING": "a setting such as obeql.device",
    "DEVICE": "a device such as cpu or cuda:0",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "LBRACE": "{",
    "RBRACE": "}",
    "COLON": ":",
    "COMMA": "a comma",
    "EQUAL": "=",
}
#: keywords of the terminals whose name is not the keyword
_KEYWORDS = {
    "KIND": ("MODEL", "IMAGES"),
    "SHOWN": ("MODELS", "IMAGES", "RUNS", "DEVICES", "OPERATORS"),
    "OR_REPLACE": ("OR REPLACE",),
    "_NO": ("NO REUSE",),
}
#: clauses that may stand once, with the terminals that begin them
_ONCE = (
    {"_FOR"},
    {"_REGION"},
    {"_WINDOWS"},
    {"_WITH"},
    {"_EXACT", "_APPROX"},
    {"_WITHIN"},
    {"_ON"},
    {"_NO"},
    {"_INTO"},
)

_FOUND = re.compile(
    r"""[+-]?\.?\d[\w.]*+ | [$]?\w++ | '[^']*+(?:''[^']*+)*+' | "[^"]*+(?:""[^"]*+)*+" | .""",
    re.VERBOSE | re.DOTALL,
)


def keywords_of(terminals: Iterable[str]) -> frozenset[str]:
    """Return the keywords among terminals, in upper case."""
    return frozenset(
        word
        for terminal in terminals
        if terminal not in _PHRASES
        for word in _KEYWORDS.get(terminal, (terminal.lstrip("_"),))
    )


def without_clauses_given(accepted: Iterable[str], read: Sequence[str]) -> set[str]:
    """Return the accepted terminals less those that would begin a clause for the second time."""
    given: set[str] = set()
    if "_OCCLUDE" in read:
        given.update(*(group for group in _ONCE if group.intersection(read)))
    return set(accepted) - given


def _allowed(accepted: set[str]) -> str:
    if "INT" in accepted and "FLOAT" in accepted:
        accepted = accepted - {"INT"}
    phrases = list(dict.fromkeys(words for name, words in _PHRASES.items() if name in accepted))
    if END in accepted:  # said last
        phrases = [*phrases[1:], phrases[0]]
    phrases = sorted(keywords_of(accepted)) + phrases
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} or {phrases[-1]}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Where and in what state the parser failed, in offsets into the whole script.

    `accepted` are the terminals allowed at `offset`, `read` those of the statement before it, `last` the text
    of the last of these; the statement ends at `end`.
    """

    offset: int
    end: int
    accepted: set[str]
    read: list[str]
    last: str


def syntax_error(script: str, failure: Failure) -> QuerySyntaxError:
    """Return the error that says what stands at the place, what is allowed there and what may be meant."""
    offset, end = failure.offset, failure.end
    match = _FOUND.match(script, offset, end) if offset < end else None
    found = match.group() if match else ""
    following = script[match.end() : end].lstrip()[:1] if match else ""
    shown = found if len(found) <= 40 else found[:37] + "..."
    message = f"expected {_allowed(failure.accepted)}, found {repr(shown) if found else 'the end of the statement'}."
    if re.fullmatch(r"[^\W\d]\w*", found):
        hint = _hint_for_word(found, following, failure)
    else:
        # `a-b`, `a.b`: the name and what was found touch
        touching = bool(failure.last) and script.endswith(failure.last, 0, offset)
        hint = _hint_for_other(found, touching, failure)
    error = QuerySyntaxError(message + hint)
    error.locate(script, offset)
    return error


def _hint_for_word(word: str, following: str, failure: Failure) -> str:
    accepted = failure.accepted
    if failure.read == ["_EXPLAIN"] and word.lower() == "analyze":
        return " Measured plans are written PLAN ANALYZE EXPLAIN OCCLUDE .."
    if failure.read in (["_PLAN"], ["_PLAN", "ANALYZE"]) and word.lower() == "select":
        return " Plans of SQL are written EXPLAIN SELECT .."
    if accepted == {"_USING"} and failure.last.lower() == "using":
        return " What stands before USING is missing."
    first_words = {keyword.split()[0] for keyword in keywords_of(accepted)}
    if suggestion := nearest(word[:40], first_words, limit=2):
        return suggestion
    if "OPTION" in accepted and following != "=":
        return f" An option is written {word[:40]}=value."
    if "STRING" in accepted and "NAME" not in accepted:
        return f" Text is written in single quotes: '{word[:40]}'."
    return ""


def _hint_for_other(found: str, touching: bool, failure: Failure) -> str:
    if touching and failure.read[-1] == "NAME" and found[:1] in ("-", ".", "/", "\\", "*", ":"):
        return " A name with such a character is written in double quotes, a path in single quotes."
    if re.match(r"[+-]?\d[\d.]*[^\W\d]", found):
        return " A number may not touch a letter."
    if found.startswith('"') and "STRING" in failure.accepted:
        return " Text is written in single quotes, double quotes are for names."
    return ""
