"""What SQL says to the statement inside it: conditions that leave out images, classes or windows beforehand.

    DuckDB's tree of the SQL -> `query`: the conditions on one statement's rows -> `rules`, a file each -> `Restriction`

The session gets the tree from DuckDB, asks DuckDB which images, classes and windows meet a condition, and runs the
restricted statement. DuckDB still applies every condition to the rows: a rule only leaves out what no row of the answer
can come from.
"""
