-- A store of schema version 1, as its first program made it: one run of two maps, one image, one model.
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
CREATE TABLE obeql_store.image_rows (
    entry_id BIGINT, image_id BIGINT, path VARCHAR, key VARCHAR, name VARCHAR, label VARCHAR, columns VARCHAR,
    written_at TIMESTAMP
);
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
CREATE TABLE obeql_store.run_events (
    entry_id BIGINT, run_id BIGINT, status VARCHAR, measured VARCHAR, written_at TIMESTAMP
);
CREATE TABLE obeql_store.run_failures (
    entry_id BIGINT, run_id BIGINT, image_id BIGINT, shown VARCHAR, error VARCHAR, written_at TIMESTAMP
);
CREATE TABLE obeql_store.run_maps (
    entry_id BIGINT, run_id BIGINT, map_id BIGINT, image_id BIGINT, class_id INTEGER, class_name VARCHAR,
    stride_height INTEGER, stride_width INTEGER, input_height INTEGER, input_width INTEGER,
    source_top DOUBLE, source_left DOUBLE, source_height DOUBLE, source_width DOUBLE,
    approx BOOLEAN, metric VARCHAR, target DOUBLE, confidence DOUBLE, bound DOUBLE,
    n_exact BIGINT, n_audit BIGINT, seed BIGINT, quality VARCHAR
);
CREATE TABLE obeql_store.maps (
    map_id BIGINT, digest VARCHAR, image_hash VARCHAR, model_hash VARCHAR, preprocessing_hash VARCHAR,
    patch_height INTEGER, patch_width INTEGER, fill VARCHAR, "precision" VARCHAR, class_id INTEGER,
    n_rows INTEGER, n_cols INTEGER, tops INTEGER[], lefts INTEGER[], heights INTEGER[], widths INTEGER[],
    clean_logit DOUBLE, clean_others DOUBLE, clean_log_odds DOUBLE, clean_top_class INTEGER,
    logit FLOAT[][] USING COMPRESSION uncompressed, others FLOAT[][] USING COMPRESSION uncompressed,
    log_odds FLOAT[][] USING COMPRESSION uncompressed, top_class INTEGER[][], exact BOOLEAN[][]
);
CREATE TABLE obeql_store.fact_rows (entry_id BIGINT, topic VARCHAR, key VARCHAR, value VARCHAR);
CREATE VIEW models AS
SELECT name, model_hash, uri, n_classes, input_height, input_width, activation, classes, preprocessing, options,
       preprocessing_hash, written_at AS created_at
FROM (FROM obeql_store.model_rows QUALIFY row_number() OVER (PARTITION BY lower(name) ORDER BY entry_id DESC) = 1)
WHERE live;
CREATE VIEW images AS
SELECT latest.image_id, latest.path, latest.name, latest.label, latest.columns, content.image_hash,
       content.height, content.width
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
CREATE VIEW runs AS
SELECT run.run_id,
       CASE WHEN event.status = 'failed' OR (run.replaces AND event.status <> 'done') THEN NULL ELSE run.name END
           AS run_name,
       event.status, run.model, run.score, run.border, run.query, run.started_at, event.ended_at,
       coalesce(content.n_images, 0) AS n_images, coalesce(content.n_maps, 0) AS n_maps,
       coalesce(failure.n_failed, 0) AS n_failed,
       run.options, event.measured, run.plan, run.versions, run.model_hash, run.preprocessing_hash
FROM obeql_store.run_rows AS run
JOIN (
    SELECT run_id, arg_max(status, entry_id) AS status, arg_max(measured, entry_id) AS measured,
           max(written_at) FILTER (status <> 'running') AS ended_at
    FROM obeql_store.run_events GROUP BY run_id
) AS event USING (run_id)
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
) AS failure USING (run_id)
WHERE event.status <> 'dropped';
CREATE VIEW failures AS
SELECT failed.run_id, failed.image_id, failed.shown, failed.error
FROM obeql_store.run_failures AS failed
SEMI JOIN runs ON runs.run_id = failed.run_id
WHERE NOT EXISTS (
    FROM obeql_store.run_maps AS map WHERE map.run_id = failed.run_id AND map.image_id = failed.image_id
)
QUALIFY row_number() OVER (PARTITION BY failed.run_id, failed.image_id ORDER BY failed.entry_id DESC) = 1;
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
       source_top, source_left, source_height, source_width, image_hash, model_hash, preprocessing_hash, map_id
FROM (
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
    JOIN runs ON runs.run_id = member.run_id
    JOIN obeql_store.maps AS map ON map.map_id = member.map_id
    LEFT JOIN images AS image ON image.image_id = member.image_id
);
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
CREATE MACRO box_mean(plane, top_row, left_col, n_rows, n_cols) AS
    list_avg(flatten(list_transform(
        plane[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
        lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])));
CREATE MACRO cells_between(plane, top_row, left_col, n_rows, n_cols, low, high) AS
    len(list_filter(
        flatten(list_transform(
            plane[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
            lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])),
        lambda _value: _value >= low AND _value < high));
CREATE MACRO map_iou(plane_a, plane_b, threshold) AS
    CASE WHEN plane_a IS NULL OR plane_b IS NULL THEN NULL
         WHEN list_transform(plane_a, lambda _row: len(_row)) <> list_transform(plane_b, lambda _row: len(_row))
         THEN NULL
         ELSE len(list_filter(list_zip(flatten(plane_a), flatten(plane_b)),
                              lambda _pair: _pair[1] >= threshold AND _pair[2] >= threshold))
              / nullif(len(list_filter(list_zip(flatten(plane_a), flatten(plane_b)),
                                       lambda _pair: _pair[1] >= threshold OR _pair[2] >= threshold)), 0)
    END;
CREATE MACRO map_difference(plane_a, plane_b) AS
    CASE WHEN plane_a IS NULL OR plane_b IS NULL THEN NULL
         WHEN list_transform(plane_a, lambda _row: len(_row)) <> list_transform(plane_b, lambda _row: len(_row))
         THEN NULL
         ELSE list_transform(list_zip(plane_a, plane_b), lambda _rows: list_transform(
                  list_zip(_rows[1], _rows[2]), lambda _pair: _pair[1] - _pair[2]))
    END;
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
CREATE MACRO top_cells(run, image, k) AS TABLE
    WITH chosen AS MATERIALIZED (
        SELECT member.map_id, member.run_id, member.image_id, member.class_id, member.class_name
        FROM obeql_store.run_maps AS member
        WHERE member.run_id = (
                SELECT coalesce(
                    max(named.run_id) FILTER (lower(named.run_name) = lower(run::VARCHAR)),
                    max(named.run_id) FILTER (named.run_id = TRY_CAST(run::VARCHAR AS BIGINT)))
                FROM runs AS named)
          AND member.image_id = (
                SELECT coalesce(
                    max(shown.image_id) FILTER (shown.path = image::VARCHAR),
                    max(shown.image_id) FILTER (shown.image_id = TRY_CAST(image::VARCHAR AS BIGINT)),
                    max(shown.image_id) FILTER (lower(shown.name) = lower(image::VARCHAR)))
                FROM images AS shown)
    ),
    opened AS MATERIALIZED (
        SELECT map_id, clean_logit, clean_log_odds, n_rows, n_cols, tops, lefts, heights, widths, logit, log_odds,
               top_class
        FROM obeql_store.maps WHERE map_id IN (SELECT map_id FROM chosen)
    ),
    by_row AS (
        SELECT map_id, clean_logit, clean_log_odds, n_cols, lefts, widths, unnest(range(n_rows)) AS "row",
               unnest(tops) AS top_px, unnest(heights) AS height_px, unnest(logit) AS logit,
               unnest(log_odds) AS log_odds, unnest(top_class) AS top_class
        FROM opened
    ),
    kinds AS (SELECT run_id, score AS kind FROM obeql_store.run_rows),
    by_cell AS (
        SELECT map_id, clean_logit, clean_log_odds, "row", top_px, height_px, unnest(range(n_cols)) AS col,
               unnest(lefts) AS left_px, unnest(widths) AS width_px, unnest(logit) AS logit,
               unnest(log_odds) AS log_odds, unnest(top_class) AS top_class
        FROM by_row
    )
    SELECT chosen.run_id, chosen.image_id, chosen.class_id, chosen.class_name, "row", col, top_px, left_px, height_px,
           width_px, score_of(kind, logit, log_odds) AS score,
           score_of(kind, clean_logit, clean_log_odds) - score_of(kind, logit, log_odds) AS importance, top_class
    FROM by_cell JOIN chosen USING (map_id) JOIN kinds USING (run_id)
    WHERE log_odds IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY map_id ORDER BY importance DESC, "row", col) <= k
    ORDER BY chosen.class_id, map_id, importance DESC, "row", col;
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
INSERT INTO obeql_store.schema_version VALUES (1, '2026-11-24 00:00:00');
SELECT nextval('obeql_store.entry_ids') FROM range(100);
SELECT nextval('obeql_store.image_ids') FROM range(100);
SELECT nextval('obeql_store.run_ids') FROM range(100);
SELECT nextval('obeql_store.map_ids') FROM range(100);
