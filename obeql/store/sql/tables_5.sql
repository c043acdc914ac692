-- What version 5 of the schema adds: maps whose planes stay in Parquet files. Such a map has a row in obeql_store.maps
-- with NULL for its planes; its id says in which shard it is (map_id >> 16), and this table where that lies.

-- `own`: written for this database, which then deletes the file with the last map of it.
CREATE TABLE obeql_store.shard_rows (
    entry_id BIGINT, shard BIGINT, live BOOLEAN, folder VARCHAR, name VARCHAR, n_maps BIGINT, own BOOLEAN,
    written_at TIMESTAMP
);
