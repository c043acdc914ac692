-- What version 3 of the schema adds to tables.sql: curves that say how well a map ranks the pixels.

-- `measure` is deletion or insertion; `probabilities` are those of the class after the share of the pixels beside.
CREATE TABLE obeql_store.evaluation_rows (
    entry_id BIGINT, run_id BIGINT, map_id BIGINT, image_id BIGINT, measure VARCHAR, auc DOUBLE, steps INTEGER,
    fill VARCHAR, shares DOUBLE[], probabilities DOUBLE[], written_at TIMESTAMP
);
