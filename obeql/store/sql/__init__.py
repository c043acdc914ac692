"""The tables, views and macros of a database, as SQL."""
