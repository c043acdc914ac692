-- Base tables of an OBEQL store. Users read the views of views.sql instead.
--
-- Every table is append-only and has neither keys nor indexes: what is current is the row written last, and a
-- removal is a row too. Times are UTC. Texts named `options`, `columns`, `versions`, `measured` and `value` are JSON.

CREATE SCHEMA obeql_store;

CREATE TABLE obeql_store.schema_version (version INTEGER, written_at TIMESTAMP);

CREATE SEQUENCE obeql_store.entry_ids;
CREATE SEQUENCE obeql_store.image_ids;
CREATE SEQUENCE obeql_store.run_ids;
CREATE SEQUENCE obeql_store.map_ids;

CREATE TABLE obeql_store.model_rows (
    entry_id BIGINT, live BOOLEAN, name VARCHAR, model_hash VARCHAR, preprocessing_hash VARCHAR, uri VARCHAR,
    options VARCHAR, classes VARCHAR[], activation VARCHAR, preprocessing VARCHAR, network VARCHAR,
    n_classes INTEGER, input_height INTEGER, input_width INTEGER, written_at TIMESTAMP
);

-- `name` is the file stem of `path`, or `key` for an image handed over from Python.
CREATE TABLE obeql_store.image_rows (
    entry_id BIGINT, image_id BIGINT, path VARCHAR, key VARCHAR, name VARCHAR, label VARCHAR, columns VARCHAR,
    written_at TIMESTAMP
);

-- What an image held when it was decoded: a file that changes gets a further row, and old maps keep the old hash.
CREATE TABLE obeql_store.image_contents (
    entry_id BIGINT, image_id BIGINT, image_hash VARCHAR, height INTEGER, width INTEGER, written_at TIMESTAMP
);

CREATE TABLE obeql_store.image_set_rows (
    entry_id BIGINT, live BOOLEAN, name VARCHAR, source VARCHAR, n_images BIGINT, written_at TIMESTAMP
);

CREATE TABLE obeql_store.image_set_members (
    set_entry_id BIGINT, place BIGINT, image_id BIGINT, path VARCHAR, key VARCHAR, label VARCHAR, columns VARCHAR
);

CREATE TABLE obeql_store.prediction_rows (
    entry_id BIGINT, image_id BIGINT, image_hash VARCHAR, model VARCHAR, model_hash VARCHAR,
    preprocessing_hash VARCHAR, class_id INTEGER, class_name VARCHAR, probability DOUBLE, logit DOUBLE, rank INTEGER
);

CREATE TABLE obeql_store.run_rows (
    run_id BIGINT, name VARCHAR, replaces BOOLEAN, query VARCHAR, model VARCHAR, model_hash VARCHAR,
    preprocessing_hash VARCHAR, score VARCHAR, border VARCHAR, options VARCHAR, plan VARCHAR, versions VARCHAR,
    started_at TIMESTAMP
);

-- status: running, done, interrupted, failed, dropped; the last event of a run holds.
CREATE TABLE obeql_store.run_events (
    entry_id BIGINT, run_id BIGINT, status VARCHAR, measured VARCHAR, written_at TIMESTAMP
);

CREATE TABLE obeql_store.run_failures (
    entry_id BIGINT, run_id BIGINT, image_id BIGINT, shown VARCHAR, error VARCHAR, written_at TIMESTAMP
);

-- Which maps a run consists of; a map may belong to several runs. Quality belongs to the run that promised it.
CREATE TABLE obeql_store.run_maps (
    entry_id BIGINT, run_id BIGINT, map_id BIGINT, image_id BIGINT, class_id INTEGER, class_name VARCHAR,
    stride_height INTEGER, stride_width INTEGER, input_height INTEGER, input_width INTEGER,
    source_top DOUBLE, source_left DOUBLE, source_height DOUBLE, source_width DOUBLE,
    approx BOOLEAN, metric VARCHAR, target DOUBLE, confidence DOUBLE, bound DOUBLE,
    n_exact BIGINT, n_audit BIGINT, seed BIGINT, quality VARCHAR
);

-- Window (r, c) is (tops[r], lefts[c], heights[r], widths[c]) in pixels of the model's input. NULL in a plane: not
-- computed. `log_odds` = logit - others rounded to float32, kept because nearly every query reads it.
-- `exact` is NULL where every computed cell is exact. Float planes are not compressed: their mantissas are noise, so
-- that compression saves 0 to 16 % of the file and costs a fifth of the time to write a map. Classes come in runs; which
-- compression is best for them is not tried out for each row group anew.
CREATE TABLE obeql_store.maps (
    map_id BIGINT, digest VARCHAR, image_hash VARCHAR, model_hash VARCHAR, preprocessing_hash VARCHAR,
    patch_height INTEGER, patch_width INTEGER, fill VARCHAR, "precision" VARCHAR, class_id INTEGER,
    n_rows INTEGER, n_cols INTEGER, tops INTEGER[], lefts INTEGER[], heights INTEGER[], widths INTEGER[],
    clean_logit DOUBLE, clean_others DOUBLE, clean_log_odds DOUBLE, clean_top_class INTEGER,
    logit FLOAT[][] USING COMPRESSION uncompressed, others FLOAT[][] USING COMPRESSION uncompressed,
    log_odds FLOAT[][] USING COMPRESSION uncompressed, top_class INTEGER[][] USING COMPRESSION rle, exact BOOLEAN[][]
);

-- Small facts that outlive a session: settings, rates measured once per device.
CREATE TABLE obeql_store.fact_rows (entry_id BIGINT, topic VARCHAR, key VARCHAR, value VARCHAR);
