-- What version 7 of the schema adds.

-- The views and macros that the file has, the latest row counts: a program whose own have another digest replaces those
-- that are named here. A name that is not may be a user's.
CREATE TABLE obeql_store.view_rows (digest VARCHAR, names VARCHAR[], written_at TIMESTAMP);
