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

-- The k cells of largest importance of each map of one image in one run, best first, ties row-major.
-- `run` is a run's name or id; `image` an image's path, id or file stem.
-- The maps are chosen before their planes are read (through `cells` the planes of every run would be read first), and
-- without a join, whose estimated size would make DuckDB read all planes into a hash table.
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
