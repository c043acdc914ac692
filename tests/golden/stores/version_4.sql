-- What a program of schema version 4 has left: its tables, the rows of version_1.sql, and its views and macros.

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
-- that compression saves 0 to 16 % of the file and costs a fifth of the time to write a map.
CREATE TABLE obeql_store.maps (
    map_id BIGINT, digest VARCHAR, image_hash VARCHAR, model_hash VARCHAR, preprocessing_hash VARCHAR,
    patch_height INTEGER, patch_width INTEGER, fill VARCHAR, "precision" VARCHAR, class_id INTEGER,
    n_rows INTEGER, n_cols INTEGER, tops INTEGER[], lefts INTEGER[], heights INTEGER[], widths INTEGER[],
    clean_logit DOUBLE, clean_others DOUBLE, clean_log_odds DOUBLE, clean_top_class INTEGER,
    logit FLOAT[][] USING COMPRESSION uncompressed, others FLOAT[][] USING COMPRESSION uncompressed,
    log_odds FLOAT[][] USING COMPRESSION uncompressed, top_class INTEGER[][], exact BOOLEAN[][]
);

-- Small facts that outlive a session: settings, rates measured once per device.
CREATE TABLE obeql_store.fact_rows (entry_id BIGINT, topic VARCHAR, key VARCHAR, value VARCHAR);

INSERT INTO obeql_store.image_rows VALUES (1, 1, 'scans/scan_1.png', NULL, 'scan_1', 'cat', '{}', '2026-11-24 22:44:59.253428');
INSERT INTO obeql_store.image_contents VALUES (3, 1, 'image', 24, 48, '2026-11-24 22:44:59.270977');
INSERT INTO obeql_store.run_rows VALUES (1, 'first', false, 'EXPLAIN OCCLUDE scan_1 USING tumour INTO first', 'tumour', 'model', 'preprocessing', 'log_odds', 'cover', '{"border":"cover"}', '', '{}', '2026-11-24 22:44:59.260412');
INSERT INTO obeql_store.run_rows VALUES (2, 'dropped', false, 'q', 'tumour', 'model', 'preprocessing', 'log_odds', NULL, '{}', '', '{}', '2026-11-24 22:44:59.318625');
INSERT INTO obeql_store.run_events VALUES (2, 1, 'running', NULL, '2026-11-24 22:44:59.265377');
INSERT INTO obeql_store.run_events VALUES (6, 1, 'done', NULL, '2026-11-24 22:44:59.317859');
INSERT INTO obeql_store.run_events VALUES (7, 2, 'running', NULL, '2026-11-24 22:44:59.323522');
INSERT INTO obeql_store.run_events VALUES (9, 2, 'done', NULL, '2026-11-24 22:44:59.338373');
INSERT INTO obeql_store.run_events VALUES (99, 2, 'dropped', NULL, NULL);
INSERT INTO obeql_store.run_maps VALUES (4, 1, 1, 1, 3, 'cat', 4, 8, 24, 48, 0.0, 0.0, 24.0, 48.0, false, NULL, NULL, NULL, NULL, 12, NULL, NULL, '{}');
INSERT INTO obeql_store.run_maps VALUES (5, 1, 2, 1, 4, 'dog', 4, 8, 24, 48, 0.0, 0.0, 24.0, 48.0, false, NULL, NULL, NULL, NULL, 12, NULL, NULL, '{}');
INSERT INTO obeql_store.run_maps VALUES (8, 2, 3, 1, 5, 'ox', 4, 8, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL, NULL, NULL, NULL, 12, NULL, NULL, '{}');
INSERT INTO obeql_store.maps VALUES (1, '8f4f34ecfc68a99fddfb8695755891afd17912d5', 'image', 'model', 'preprocessing', 16, 24, 'mean', 'float32', 3, 3, 4, [0, 4, 8], [0, 8, 16, 24], [16, 16, 16], [24, 24, 24, 24], 2.5, -0.5, 3.0, 3, [[3.5, 1.25, 0.0, -2.375], [-2.0, -4.625, -4.25, -4.875], [-3.25, 3.125, 1.375, 4.125]], [[0.0, 0.125, 0.875, 0.375], [0.25, 0.0, 0.0, 0.75], [-0.5, 0.625, 0.25, -1.0]], [[3.5, 1.125, -0.875, -2.75], [-2.25, -4.625, -4.25, -5.625], [-2.75, 2.5, 1.125, 5.125]], [[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]], NULL);
INSERT INTO obeql_store.maps VALUES (2, '43f714b00d31145e6aaa4a78432a6c1924584142', 'image', 'model', 'preprocessing', 16, 24, 'mean', 'float32', 4, 3, 4, [0, 4, 8], [0, 8, 16, 24], [16, 16, 16], [24, 24, 24, 24], 2.5, -0.5, 3.0, 3, [[-1.125, 3.5, 0.5, -4.75], [2.625, 2.25, 3.375, -3.25], [-4.125, 3.625, -4.875, 0.375]], [[-0.875, -0.5, -0.125, -0.25], [-0.25, -1.0, -1.0, -0.875], [-1.0, 0.25, 0.0, 0.25]], [[-0.25, 4.0, 0.625, -4.5], [2.875, 3.25, 4.375, -2.375], [-3.125, 3.375, -4.875, 0.125]], [[4, 4, 4, 4], [4, 4, 4, 4], [4, 4, 4, 4]], NULL);
INSERT INTO obeql_store.maps VALUES (3, '335d77794800a277c88d0995bf72851fbb1a80f7', 'image', 'model', 'preprocessing', 16, 24, 'mean', 'float32', 5, 3, 4, [0, 4, 8], [0, 8, 16, 24], [16, 16, 16], [24, 24, 24, 24], 2.5, -0.5, 3.0, 3, [[-2.5, 1.125, 2.625, -1.25], [-0.5, 4.875, 3.0, 4.75], [-1.25, 1.75, 4.5, 1.5]], [[0.625, 0.375, 0.375, -0.25], [0.75, -0.75, 0.125, 0.375], [0.625, 0.0, -0.25, -0.5]], [[-3.125, 0.75, 2.25, -1.0], [-1.25, 5.625, 2.875, 4.375], [-1.875, 1.75, 4.75, 2.0]], [[5, 5, 5, 5], [5, 5, 5, 5], [5, 5, 5, 5]], NULL);
INSERT INTO obeql_store.schema_version VALUES (4, '2026-11-24 00:00:00');
SELECT nextval('obeql_store.entry_ids') FROM range(100);
SELECT nextval('obeql_store.image_ids') FROM range(100);
SELECT nextval('obeql_store.run_ids') FROM range(100);
SELECT nextval('obeql_store.map_ids') FROM range(100);

-- What version 3 of the schema adds to tables.sql: curves that say how well a map ranks the pixels, and what a DICOM
-- file says of itself.

ALTER TABLE obeql_store.image_contents ADD COLUMN series_uid VARCHAR;
ALTER TABLE obeql_store.image_contents ADD COLUMN pixel_height_mm DOUBLE;
ALTER TABLE obeql_store.image_contents ADD COLUMN pixel_width_mm DOUBLE;

-- `measure` is deletion or insertion; `probabilities` are those of the class after the share of the pixels beside.
CREATE TABLE obeql_store.evaluation_rows (
    entry_id BIGINT, run_id BIGINT, map_id BIGINT, image_id BIGINT, measure VARCHAR, auc DOUBLE, steps INTEGER,
    fill VARCHAR, shares DOUBLE[], probabilities DOUBLE[], written_at TIMESTAMP
);

-- What users read. The file alone answers these views in any DuckDB >= 1.5; nothing of OBEQL need be installed.
--
-- Formulas are written out instead of shared through macros: a view keeps working when the file is attached under
-- another name, a macro called by it would not be found there. sigmoid(z) = 1 / (1 + exp(-z)) is safe as it stands:
-- exp overflows to infinity and the quotient to 0. log sigmoid(z) is a series for large z, where 1 + exp(-z) rounds
-- to 1, and z - ln(1 + exp(z)) for negative z.

CREATE VIEW models AS
SELECT name, model_hash, uri, n_classes, input_height, input_width, activation, classes, preprocessing, options,
       preprocessing_hash, written_at AS created_at
FROM (FROM obeql_store.model_rows QUALIFY row_number() OVER (PARTITION BY lower(name) ORDER BY entry_id DESC) = 1)
WHERE live;

CREATE VIEW images AS
SELECT latest.image_id, latest.path, latest.name, latest.label, latest.columns, content.image_hash,
       content.height, content.width, content.series_uid, content.pixel_height_mm, content.pixel_width_mm
FROM (
    FROM obeql_store.image_rows
    QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY entry_id DESC) = 1
) AS latest
LEFT JOIN (
    FROM obeql_store.image_contents
    QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY entry_id DESC) = 1
) AS content USING (image_id);

CREATE VIEW image_sets AS
SELECT live_set.name, live_set.source, live_set.n_images, member.place, member.image_id, member.path, member.label,
       live_set.written_at AS created_at
FROM (
    FROM obeql_store.image_set_rows
    QUALIFY row_number() OVER (PARTITION BY lower(name) ORDER BY entry_id DESC) = 1
) AS live_set
LEFT JOIN obeql_store.image_set_members AS member ON member.set_entry_id = live_set.entry_id
WHERE live_set.live;

CREATE VIEW predictions AS
SELECT image_id, image_hash, model, model_hash, class_id, class_name, probability, logit, rank, preprocessing_hash
FROM obeql_store.prediction_rows
QUALIFY row_number() OVER (
    PARTITION BY image_id, image_hash, model_hash, preprocessing_hash, class_id ORDER BY entry_id DESC
) = 1;

-- The runs without counts of what they hold, which takes reading all of run_maps. A failed run, or one that is to
-- replace another and is not done yet, holds no name.
CREATE VIEW obeql_store.live_runs AS
SELECT run.run_id,
       CASE WHEN event.status = 'failed' OR (run.replaces AND event.status <> 'done') THEN NULL ELSE run.name END
           AS run_name,
       event.status, run.model, run.score, run.border, run.query, run.started_at, event.ended_at, run.options,
       event.measured, run.plan, run.versions, run.model_hash, run.preprocessing_hash
FROM obeql_store.run_rows AS run
JOIN (
    SELECT run_id, arg_max(status, entry_id) AS status, arg_max(measured, entry_id) AS measured,
           max(written_at) FILTER (status <> 'running') AS ended_at
    FROM obeql_store.run_events GROUP BY run_id
) AS event USING (run_id)
WHERE event.status <> 'dropped';

CREATE VIEW runs AS
SELECT run.run_id, run.run_name, run.status, run.model, run.score, run.border, run.query, run.started_at, run.ended_at,
       coalesce(content.n_images, 0) AS n_images, coalesce(content.n_maps, 0) AS n_maps,
       coalesce(failure.n_failed, 0) AS n_failed,
       run.options, run.measured, run.plan, run.versions, run.model_hash, run.preprocessing_hash
FROM obeql_store.live_runs AS run
LEFT JOIN (
    SELECT run_id, count(DISTINCT image_id) AS n_images, count(*) AS n_maps
    FROM obeql_store.run_maps GROUP BY run_id
) AS content USING (run_id)
LEFT JOIN (
    SELECT run_id, count(DISTINCT image_id) AS n_failed
    FROM obeql_store.run_failures AS failed
    WHERE NOT EXISTS (
        FROM obeql_store.run_maps AS map WHERE map.run_id = failed.run_id AND map.image_id = failed.image_id
    )
    GROUP BY run_id
) AS failure USING (run_id);

CREATE VIEW failures AS
SELECT failed.run_id, failed.image_id, failed.shown, failed.error
FROM obeql_store.run_failures AS failed
SEMI JOIN obeql_store.live_runs AS runs ON runs.run_id = failed.run_id
WHERE NOT EXISTS (
    FROM obeql_store.run_maps AS map WHERE map.run_id = failed.run_id AND map.image_id = failed.image_id
)
QUALIFY row_number() OVER (PARTITION BY failed.run_id, failed.image_id ORDER BY failed.entry_id DESC) = 1;

-- One row a map of a run. clean_score - scores = importance: positive is evidence for the class.
CREATE VIEW heatmaps AS
SELECT run_id, run_name, image_id, path, label, class_id, class_name, model, score, patch_height, patch_width,
       stride_height, stride_width, fill, border, "precision", "rows", cols, clean_score, clean_probability,
       clean_log_odds, clean_logit, clean_top_class, approx, metric, target, confidence, bound, n_exact, n_audit, seed,
       CASE score
           WHEN 'log_odds' THEN log_odds
           WHEN 'logit' THEN logit
           WHEN 'probability' THEN list_transform(log_odds, lambda cells_of_row: list_transform(
               cells_of_row, lambda z: (1 / (1 + exp(-z)))::FLOAT))
           ELSE list_transform(log_odds, lambda cells_of_row: list_transform(cells_of_row, lambda z: (CASE
               WHEN z > 15 THEN 0 - exp(-z) * (1 - exp(-z) * (0.5::DOUBLE - exp(-z) / 3))
               WHEN z >= 0 THEN 0 - ln(1 + exp(-z))
               ELSE z - ln(1 + exp(z))
           END)::FLOAT))
       END AS scores,
       CASE score
           WHEN 'log_odds' THEN list_transform(log_odds, lambda cells_of_row: list_transform(
               cells_of_row, lambda z: clean_log_odds_float - z))
           WHEN 'logit' THEN list_transform(logit, lambda cells_of_row: list_transform(
               cells_of_row, lambda z: clean_logit_float - z))
           WHEN 'probability' THEN list_transform(log_odds, lambda cells_of_row: list_transform(
               cells_of_row, lambda z: (clean_score - 1 / (1 + exp(-z)))::FLOAT))
           ELSE list_transform(log_odds, lambda cells_of_row: list_transform(cells_of_row, lambda z: (
               clean_score - CASE
                   WHEN z > 15 THEN 0 - exp(-z) * (1 - exp(-z) * (0.5::DOUBLE - exp(-z) / 3))
                   WHEN z >= 0 THEN 0 - ln(1 + exp(-z))
                   ELSE z - ln(1 + exp(z))
               END)::FLOAT))
       END AS importance,
       log_odds, logit, others, top_class, exact, tops, lefts, heights, widths, input_height, input_width,
       source_top, source_left, source_height, source_width, image_hash, model_hash, preprocessing_hash, map_id, quality
FROM (
    -- The clean scores are columns here, so that the lambdas above capture one number a map and not its formula.
    SELECT member.*, map.* EXCLUDE (map_id, digest, class_id, model_hash, preprocessing_hash, n_rows, n_cols),
           map.n_rows AS "rows", map.n_cols AS cols, runs.run_name, image.path, image.label, runs.model, runs.score,
           runs.model_hash, runs.preprocessing_hash, runs.border,
           CASE runs.score
               WHEN 'log_odds' THEN map.clean_log_odds
               WHEN 'logit' THEN map.clean_logit
               WHEN 'probability' THEN 1 / (1 + exp(-map.clean_log_odds))
               ELSE CASE
                   WHEN map.clean_log_odds > 15 THEN
                       0 - exp(-map.clean_log_odds)
                       * (1 - exp(-map.clean_log_odds) * (0.5::DOUBLE - exp(-map.clean_log_odds) / 3))
                   WHEN map.clean_log_odds >= 0 THEN 0 - ln(1 + exp(-map.clean_log_odds))
                   ELSE map.clean_log_odds - ln(1 + exp(map.clean_log_odds))
               END
           END AS clean_score,
           1 / (1 + exp(-map.clean_log_odds)) AS clean_probability,
           map.clean_log_odds::FLOAT AS clean_log_odds_float, map.clean_logit::FLOAT AS clean_logit_float
    FROM obeql_store.run_maps AS member
    JOIN obeql_store.live_runs AS runs ON runs.run_id = member.run_id
    JOIN obeql_store.maps AS map ON map.map_id = member.map_id
    LEFT JOIN images AS image ON image.image_id = member.image_id
);

-- One row for each map and measure of EVALUATE; of the same steps and fill, the latest counts.
CREATE VIEW evaluations AS
SELECT row.run_id, run.run_name, row.image_id, image.path, image.label, member.class_id, member.class_name,
       map.patch_height, map.patch_width, run.score, row.measure, row.auc, row.steps, row.fill, row.shares,
       row.probabilities, row.map_id
FROM (
    FROM obeql_store.evaluation_rows
    QUALIFY row_number() OVER (
        PARTITION BY run_id, map_id, image_id, measure, steps, fill ORDER BY entry_id DESC
    ) = 1
) AS row
JOIN obeql_store.live_runs AS run ON run.run_id = row.run_id
JOIN (
    SELECT run_id, map_id, image_id, any_value(class_id) AS class_id, any_value(class_name) AS class_name
    FROM obeql_store.run_maps GROUP BY run_id, map_id, image_id
) AS member ON member.run_id = row.run_id AND member.map_id = row.map_id AND member.image_id = row.image_id
JOIN (SELECT map_id, patch_height, patch_width FROM obeql_store.maps) AS map ON map.map_id = row.map_id
LEFT JOIN images AS image ON image.image_id = row.image_id;

-- One row a window. row and col count from 0; pixels are those of the model's input; NULL: not computed.
CREATE VIEW cells AS
SELECT run_id, image_id, class_id, class_name, "row", col, top_px, left_px, height_px, width_px, score,
       clean_score - score AS importance, probability, log_probability, log_odds, logit, top_class, exact
FROM (
    SELECT *,
           CASE WHEN log_odds IS NOT NULL THEN coalesce(listed_exact, true) END AS exact,
           1 / (1 + exp(-log_odds)) AS probability,
           CASE
               WHEN log_odds > 15 THEN
                   0 - exp(-log_odds) * (1 - exp(-log_odds) * (0.5::DOUBLE - exp(-log_odds) / 3))
               WHEN log_odds >= 0 THEN 0 - ln(1 + exp(-log_odds))
               ELSE log_odds - ln(1 + exp(log_odds))
           END AS log_probability,
           CASE score_kind
               WHEN 'log_odds' THEN log_odds::DOUBLE
               WHEN 'logit' THEN logit::DOUBLE
               WHEN 'probability' THEN 1 / (1 + exp(-log_odds))
               ELSE log_probability
           END AS score
    FROM (
        SELECT run_id, image_id, class_id, class_name, score_kind, clean_score, "row", top_px, height_px,
               unnest(range(cols)) AS col, unnest(lefts) AS left_px, unnest(widths) AS width_px,
               unnest(log_odds) AS log_odds, unnest(logit) AS logit, unnest(top_class) AS top_class,
               unnest(exact) AS listed_exact
        FROM (
            SELECT run_id, image_id, class_id, class_name, score AS score_kind, clean_score, cols, lefts, widths,
                   unnest(range("rows")) AS "row", unnest(tops) AS top_px, unnest(heights) AS height_px,
                   unnest(log_odds) AS log_odds, unnest(logit) AS logit, unnest(top_class) AS top_class,
                   unnest(exact) AS exact
            FROM heatmaps
        )
    )
);

-- Macros over planes (2-D lists such as heatmaps.scores) and over runs. Rows and columns count from 0, as in `cells`.
--
-- A box is (top_row, left_col, n_rows, n_cols); the part of it that lies outside the plane is ignored. Only 2-D slices
-- are used: slicing a flattened list once per row is a hundred times slower. Parameters named plane_* and lambda
-- names with a leading underscore keep clear of the columns a caller may pass in.

-- Mean of the computed cells of a box; NULL where it holds none.
CREATE MACRO box_mean(plane, top_row, left_col, n_rows, n_cols) AS
    list_avg(flatten(list_transform(
        plane[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
        lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])));

-- Number of cells of a box with low <= value < high (MaskSearch's CP); cells not computed do not count.
CREATE MACRO cells_between(plane, top_row, left_col, n_rows, n_cols, low, high) AS
    len(list_filter(
        flatten(list_transform(
            plane[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
            lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])),
        lambda _value: _value >= low AND _value < high));

-- Overlap of two planes: cells at or above the threshold in both, divided by cells at or above it in either.
-- NULL where neither plane reaches the threshold, or where the planes differ in shape. (Not error(...), which DuckDB
-- treats as a side effect and then refuses in ORDER BY of windows and behind aliases.)
CREATE MACRO map_iou(plane_a, plane_b, threshold) AS
    CASE WHEN plane_a IS NULL OR plane_b IS NULL THEN NULL
         WHEN list_transform(plane_a, lambda _row: len(_row)) <> list_transform(plane_b, lambda _row: len(_row))
         THEN NULL
         ELSE len(list_filter(list_zip(flatten(plane_a), flatten(plane_b)),
                              lambda _pair: _pair[1] >= threshold AND _pair[2] >= threshold))
              / nullif(len(list_filter(list_zip(flatten(plane_a), flatten(plane_b)),
                                       lambda _pair: _pair[1] >= threshold OR _pair[2] >= threshold)), 0)
    END;

-- Cell by cell, plane_a - plane_b; NULL where either is not computed, and where the planes differ in shape.
CREATE MACRO map_difference(plane_a, plane_b) AS
    CASE WHEN plane_a IS NULL OR plane_b IS NULL THEN NULL
         WHEN list_transform(plane_a, lambda _row: len(_row)) <> list_transform(plane_b, lambda _row: len(_row))
         THEN NULL
         ELSE list_transform(list_zip(plane_a, plane_b), lambda _rows: list_transform(
                  list_zip(_rows[1], _rows[2]), lambda _pair: _pair[1] - _pair[2]))
    END;

-- A score from a class's logit z and its log-odds; views.sql says why the formulas are safe.
CREATE MACRO score_of(kind, logit_z, log_odds_z) AS
    CASE kind
        WHEN 'log_odds' THEN log_odds_z::DOUBLE
        WHEN 'logit' THEN logit_z::DOUBLE
        WHEN 'probability' THEN 1 / (1 + exp(-log_odds_z))
        WHEN 'log_probability' THEN CASE
            WHEN log_odds_z > 15 THEN
                0 - exp(-log_odds_z) * (1 - exp(-log_odds_z) * (0.5::DOUBLE - exp(-log_odds_z) / 3))
            WHEN log_odds_z >= 0 THEN 0 - ln(1 + exp(-log_odds_z))
            ELSE log_odds_z - ln(1 + exp(log_odds_z))
        END
    END;

-- Where the importance lies: (row, col) of the mean cell, weighted by what is positive; NULL where nothing is.
CREATE MACRO centre_of_mass(plane) AS
    CASE WHEN list_sum(list_transform(flatten(plane), lambda _value: greatest(_value, 0))) > 0 THEN {
        'row': list_sum(list_transform(plane, lambda _row, _i: (_i - 1) * list_sum(list_transform(
                   _row, lambda _value: greatest(_value, 0)::DOUBLE))))
               / list_sum(list_transform(flatten(plane), lambda _value: greatest(_value, 0)::DOUBLE)),
        'col': list_sum(list_transform(plane, lambda _row: list_sum(list_transform(
                   _row, lambda _value, _j: (_j - 1) * greatest(_value, 0)::DOUBLE))))
               / list_sum(list_transform(flatten(plane), lambda _value: greatest(_value, 0)::DOUBLE))
    } END;

-- A box of cells of every map: `scores` and `importance` are lists of its cells, row by row, NULL where not computed.
-- The box is cut out of the stored planes before anything is made of them, so that a query over a whole corpus reads
-- them once; box_mean(importance, ..) over `heatmaps` works on all cells of each map first.
CREATE MACRO box_cells(top_row, left_col, n_rows, n_cols) AS TABLE
    WITH member AS MATERIALIZED (
        SELECT maps.map_id, maps.run_id, maps.image_id, maps.class_id, maps.class_name, run.run_name, run.model,
               run.score
        FROM obeql_store.run_maps AS maps JOIN obeql_store.live_runs AS run ON run.run_id = maps.run_id
    ),
    cut AS (
        SELECT map_id, false AS by_logit, clean_log_odds AS clean, clean_log_odds::FLOAT AS clean_float, patch_height,
               patch_width,
               flatten(list_transform(log_odds[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
                   lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])) AS z
        FROM obeql_store.maps WHERE map_id IN (SELECT map_id FROM member WHERE score <> 'logit')
        UNION ALL
        SELECT map_id, true, clean_logit, clean_logit::FLOAT, patch_height, patch_width,
               flatten(list_transform(logit[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
                   lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)]))
        FROM obeql_store.maps WHERE map_id IN (SELECT map_id FROM member WHERE score = 'logit')
    )
    SELECT member.run_id, member.run_name, member.image_id, image.path, image.label, member.class_id,
           member.class_name, member.model, member.score, cut.patch_height, cut.patch_width,
           score_of(member.score, cut.clean, cut.clean) AS clean_score,
           CASE WHEN member.score IN ('log_odds', 'logit') THEN cut.z
                ELSE list_transform(cut.z, lambda _z: score_of(member.score, _z, _z)::FLOAT) END AS scores,
           CASE WHEN member.score IN ('log_odds', 'logit')
                THEN list_transform(cut.z, lambda _z: cut.clean_float - _z)
                ELSE list_transform(cut.z, lambda _z: (score_of(member.score, cut.clean, cut.clean)
                                                       - score_of(member.score, _z, _z))::FLOAT)
           END AS importance,
           cut.map_id
    FROM cut JOIN member ON member.map_id = cut.map_id AND cut.by_logit = (member.score = 'logit')
    LEFT JOIN images AS image ON image.image_id = member.image_id;

-- The maps of one image in one run. `run` is a run's name or id; `image` an image's path, id or file stem.
CREATE MACRO maps_of(run, image) AS TABLE
    SELECT member.map_id, member.run_id, member.image_id, member.class_id, member.class_name, chosen.kind
    FROM obeql_store.run_maps AS member
    JOIN (
        SELECT run_id, score AS kind FROM obeql_store.live_runs
        WHERE lower(run_name) = lower(run::VARCHAR) OR run_id = TRY_CAST(run::VARCHAR AS BIGINT)
        ORDER BY lower(run_name) IS NOT DISTINCT FROM lower(run::VARCHAR) DESC LIMIT 1
    ) AS chosen ON member.run_id = chosen.run_id
    WHERE member.image_id = (
            SELECT coalesce(
                max(shown.image_id) FILTER (shown.path = image::VARCHAR),
                max(shown.image_id) FILTER (shown.image_id = TRY_CAST(image::VARCHAR AS BIGINT)),
                max(shown.image_id) FILTER (lower(shown.name) = lower(image::VARCHAR)))
            FROM obeql_store.image_rows AS shown);

-- The cells of one image in one run, those that were computed.
-- The maps are chosen before their planes are read (through `cells` the planes of every run would be read first), and
-- without a join, whose estimated size would make DuckDB read all planes into a hash table. Most of the time of a query
-- of one map goes into planning: one scan and few formulas are faster than reading fewer planes.
CREATE MACRO cells_of(run, image) AS TABLE
    WITH chosen AS MATERIALIZED (SELECT * FROM maps_of(run, image)),
    opened AS MATERIALIZED (
        SELECT map_id, clean_log_odds, clean_logit, n_rows, n_cols, tops, lefts, heights, widths, log_odds, logit,
               top_class
        FROM obeql_store.maps WHERE map_id IN (SELECT map_id FROM chosen)
    ),
    by_cell AS (
        SELECT chosen.*, tops, lefts, heights, widths, n_cols,
               score_of(kind, clean_logit, clean_log_odds) AS clean_score, unnest(range(n_rows * n_cols)) AS cell,
               unnest(flatten(CASE WHEN kind = 'logit' THEN logit ELSE log_odds END)) AS z,
               unnest(flatten(top_class)) AS top_class
        FROM opened JOIN chosen USING (map_id)
    ),
    scored AS (
        SELECT run_id, image_id, class_id, class_name, cell // n_cols AS "row", cell % n_cols AS col, tops, lefts,
               heights, widths, score_of(kind, z, z) AS score, clean_score, top_class, map_id
        FROM by_cell
        WHERE z IS NOT NULL
    )
    SELECT run_id, image_id, class_id, class_name, "row", col, tops["row" + 1] AS top_px, lefts[col + 1] AS left_px,
           heights["row" + 1] AS height_px, widths[col + 1] AS width_px, score, clean_score - score AS importance,
           top_class, map_id
    FROM scored;

-- The k cells of largest importance of each map of one image in one run, best first, ties row-major.
CREATE MACRO top_cells(run, image, k) AS TABLE
    SELECT * EXCLUDE (map_id)
    FROM cells_of(run, image)
    QUALIFY row_number() OVER (PARTITION BY map_id ORDER BY importance DESC, "row", col) <= k
    ORDER BY class_id, map_id, importance DESC, "row", col;

-- The map of one image by pixels of the model's input: for each pixel the plain mean of the windows that cover it.
CREATE MACRO pixel_map(run, image) AS TABLE
    SELECT run_id, image_id, class_id, class_name, map_id, y, x, avg(importance) AS importance
    FROM (
        SELECT run_id, image_id, class_id, class_name, map_id, importance, y,
               unnest(range(left_px, left_px + width_px)) AS x
        FROM (
            SELECT run_id, image_id, class_id, class_name, map_id, importance, left_px, width_px,
                   unnest(range(top_px, top_px + height_px)) AS y
            FROM cells_of(run, image)
        )
    )
    GROUP BY ALL;

-- The order in which a deletion or insertion curve takes the pixels of each map: most important first, ties
-- row-major. `share` is the part of the covered pixels taken up to this one.
CREATE MACRO deletion_order(run, image) AS TABLE
    SELECT run_id, image_id, class_id, class_name, map_id,
           row_number() OVER (PARTITION BY map_id ORDER BY importance DESC, y, x) AS rank, y, x, importance,
           rank / count(*) OVER (PARTITION BY map_id) AS share
    FROM pixel_map(run, image)
    ORDER BY class_id, map_id, rank;
