"""Words of SQL, for colors and completion; what DuckDB makes of them, DuckDB decides."""

import re

__all__ = ["SQL_WORDS"]

SQL_WORDS = tuple(
    re.findall(
        r"\w+",
        """alter analyze and as asc attach begin between by case cast checkpoint commit copy create cross delete desc
    describe detach distinct drop else end except exclude exists explain export false filter from full group having if
    in inner insert install intersect into is join lateral left like limit load macro natural not null offset on or
    order outer over partition pivot positional pragma qualify recursive replace reset right rollback select semi set
    show summarize table temp then to transaction true union unpivot update use using values view when where window
    with""",
    )
)
