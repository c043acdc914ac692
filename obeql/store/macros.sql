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
-- NULL where neither plane reaches the threshold.
CREATE MACRO map_iou(plane_a, plane_b, threshold) AS
    CASE WHEN plane_a IS NULL OR plane_b IS NULL THEN NULL
         WHEN list_transform(plane_a, lambda _row: len(_row)) <> list_transform(plane_b, lambda _row: len(_row))
         THEN error('map_iou: the two planes differ in their numbers of rows or columns')
         ELSE len(list_filter(list_zip(flatten(plane_a), flatten(plane_b)),
                              lambda _pair: _pair[1] >= threshold AND _pair[2] >= threshold))
              / nullif(len(list_filter(list_zip(flatten(plane_a), flatten(plane_b)),
                                       lambda _pair: _pair[1] >= threshold OR _pair[2] >= threshold)), 0)
    END;

-- Cell by cell, plane_a - plane_b; NULL where either is not computed.
CREATE MACRO map_difference(plane_a, plane_b) AS
    CASE WHEN plane_a IS NULL OR plane_b IS NULL THEN NULL
         WHEN list_transform(plane_a, lambda _row: len(_row)) <> list_transform(plane_b, lambda _row: len(_row))
         THEN error('map_difference: the two planes differ in their numbers of rows or columns')
         ELSE list_transform(list_zip(plane_a, plane_b), lambda _rows: list_transform(
                  list_zip(_rows[1], _rows[2]), lambda _pair: _pair[1] - _pair[2]))
    END;

-- The k cells of largest importance of each map of one image in one run, best first, ties row-major.
-- `run` is a run's name or id, `image` an image's id, path or file stem.
CREATE MACRO top_cells(run, image, k) AS TABLE
    SELECT * FROM cells
    -- Two numbers, not two sets: only a comparison with a scalar reaches the scan of the maps, which is then short.
    WHERE run_id = (
            SELECT coalesce(
                max(named.run_id) FILTER (lower(named.run_name) = lower(run::VARCHAR)),
                max(named.run_id) FILTER (named.run_id = TRY_CAST(run::VARCHAR AS BIGINT)))
            FROM runs AS named)
      AND image_id = (
            SELECT coalesce(
                max(shown.image_id) FILTER (shown.path = image::VARCHAR),
                max(shown.image_id) FILTER (shown.image_id = TRY_CAST(image::VARCHAR AS BIGINT)),
                max(shown.image_id) FILTER (lower(shown.name) = lower(image::VARCHAR)))
            FROM images AS shown)
      AND importance IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY run_id, image_id, class_id ORDER BY importance DESC, "row", col
    ) <= k
    ORDER BY run_id, image_id, class_id, importance DESC, "row", col;
