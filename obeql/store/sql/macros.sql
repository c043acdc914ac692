-- Macros over planes (2-D lists such as heatmaps.scores) and over runs. Rows and columns count from 0, as in `cells`.
-- Planes of a volume are lines, plane after plane of the grid: its row r of plane p is row p * heatmaps.rows + r there.
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

-- What a box of cells of a map in one value, flat_maps.map, is made of: a flat list, row by row. Cutting a plane
-- row by row costs twice as much.
CREATE MACRO cells_in_box(packed, top_row, left_col, n_rows, n_cols) AS
    list_select(packed.z, flatten(list_transform(
        range(greatest(top_row, 0), least(top_row + n_rows, packed.n_rows)),
        lambda _row: range(_row * packed.n_cols + greatest(left_col, 0) + 1,
                           _row * packed.n_cols + least(left_col + n_cols, packed.n_cols) + 1))));

-- Number of cells of a map, or of a box of it, with low <= importance < high: cells_between(importance, ..) of
-- flat_maps.map, of which no more is computed than is asked for.
CREATE MACRO count_between(packed, low, high) AS {{ count_between packed | packed.z | low | high }},
(packed, top_row, left_col, n_rows, n_cols, low, high) AS
    {{ count_between packed | cells_in_box(packed, top_row, left_col, n_rows, n_cols) | low | high }};

-- The cells of a map, or of a box of it, row by row: 1 where importance reaches low, else 0. The list_dot_product of two
-- counts the cells that reach it in both.
CREATE MACRO at_least(packed, low) AS {{ at_least packed | packed.z | low }},
(packed, top_row, left_col, n_rows, n_cols, low) AS
    {{ at_least packed | cells_in_box(packed, top_row, left_col, n_rows, n_cols) | low }};

-- map_iou of two maps in one value, flat_maps.map.
CREATE MACRO iou_at_least(packed_a, packed_b, low) AS
    list_transform([[
        list_dot_product(at_least(packed_a, low), list_resize(at_least(packed_b, low), len(packed_a.z), 0)),
        list_sum(at_least(packed_a, low)), list_sum(at_least(packed_b, low)),
        CASE WHEN packed_a.n_rows = packed_b.n_rows AND packed_a.n_cols = packed_b.n_cols THEN 1 END
    ]], lambda _n: _n[4] * _n[1] / nullif(_n[2] + _n[3] - _n[1], 0))[1];

-- What count_between gives, between two bounds: least <= count <= most. From the histogram of coarse_maps.map, without a
-- plane; a region that a box cuts has between none and all of its cells inside. Lists of one element give names.
CREATE MACRO count_bounds(packed, low, high) AS
    list_transform([{
        'least_low': list_sum(packed.counts[{{ edge packed | low | least }}]),
        'most_low': list_sum(packed.counts[{{ edge packed | low | most }}]),
        'least_high': list_sum(packed.counts[{{ edge packed | high | least }}]),
        'most_high': list_sum(packed.counts[{{ edge packed | high | most }}])
    }], lambda _n: {
        'least': greatest(_n.least_low - _n.most_high, 0)::BIGINT,  -- 0 for NULL, too
        'most': greatest(coalesce(_n.most_low - _n.least_high, packed.n_rows * packed.n_cols), 0)::BIGINT
    })[1],
(packed, top_row, left_col, n_rows, n_cols, low, high) AS
    list_transform(list_transform([{
        'least_low': packed.counts[{{ edge packed | low | least }}],
        'most_low': packed.counts[{{ edge packed | low | most }}],
        'least_high': packed.counts[{{ edge packed | high | least }}],
        'most_high': packed.counts[{{ edge packed | high | most }}],
        'top': greatest(top_row, 0), 'bottom': least(top_row + n_rows, packed.n_rows),
        'left': greatest(left_col, 0), 'right': least(left_col + n_cols, packed.n_cols),
        'height': {{ region_height packed }}, 'width': {{ region_width packed }}
    }], lambda _box: {
        'of': _box,
        -- Each region that the box meets: its place, its cells inside the box, those outside.
        'regions': flatten(list_transform(
            range(_box.top // _box.height, (_box.bottom + _box.height - 1) // _box.height), lambda _r: list_transform(
            range(_box.left // _box.width, (_box.right + _box.width - 1) // _box.width), lambda _c: list_transform([[
                greatest(least((_r + 1) * _box.height, _box.bottom) - greatest(_r * _box.height, _box.top), 0)
                * greatest(least((_c + 1) * _box.width, _box.right) - greatest(_c * _box.width, _box.left), 0),
                (least((_r + 1) * _box.height, packed.n_rows) - _r * _box.height)
                * (least((_c + 1) * _box.width, packed.n_cols) - _c * _box.width)
            ]], lambda _n: [
                _r * ((packed.n_cols + _box.width - 1) // _box.width) + _c + 1, _n[1], _n[2] - _n[1]
            ])[1])))
    }), lambda _all: {
        'least': coalesce(list_sum(list_transform(_all.regions, lambda _g: greatest(
            _all.of.least_low[_g[1]]::INTEGER - _all.of.most_high[_g[1]] - _g[3], 0))), 0)::BIGINT,
        'most': coalesce(list_sum(list_transform(_all.regions, lambda _g: least(
            greatest(coalesce(_all.of.most_low[_g[1]]::INTEGER - _all.of.least_high[_g[1]], _g[2]), 0), _g[2]))), 0)::BIGINT
    })[1];

-- What iou_at_least gives, between two bounds, from the histograms of coarse_maps.map; both are NULL where no cell of
-- either map reaches `low` or the maps differ in shape. `is_sure`: some cell surely does, so that it is not NULL.
CREATE MACRO iou_bounds(packed_a, packed_b, low) AS {{ iou_bounds packed_a | packed_b | low }};

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

-- A score from a class's logit z and its log-odds.
CREATE MACRO score_of(kind, logit_z, log_odds_z) AS {{ score kind | logit_z | log_odds_z }};

-- What hiding a window costs, score of the image - score of the window, from the same numbers of both.
CREATE MACRO importance_of(kind, clean_logit_z, clean_log_odds_z, logit_z, log_odds_z) AS coalesce(
    {{ rest kind | logit_z | log_odds_z }} - {{ clean_rest kind | clean_logit_z | clean_log_odds_z }},
    score_of(kind, clean_logit_z, clean_log_odds_z) - score_of(kind, logit_z, log_odds_z));

-- Where the importance lies, weighted by what is positive; NULL where nothing is. Of a plane alone (row, col) of the mean
-- cell; with the windows' places (y, x) of the mean of their middles, in pixels of the model's input, 0 at its edge.
-- Lists of one element give names to what is used more than once; CASE takes a fifth of the time of greatest(.., 0).
CREATE MACRO centre_of_mass(plane) AS
    list_transform(list_transform(
        [list_transform(plane, lambda _row: list_transform(
            _row, lambda _value: CASE WHEN _value > 0 THEN _value::DOUBLE ELSE 0 END))],
        lambda _positive: {
            'of_rows': list_transform(_positive, lambda _row: list_sum(_row)),
            'by_col': list_sum(list_transform(
                _positive, lambda _row: list_dot_product(_row, range(len(_row))::DOUBLE[])))
        }),
        lambda _sum: CASE WHEN list_sum(_sum.of_rows) > 0 THEN {
            'row': list_dot_product(_sum.of_rows, range(len(_sum.of_rows))::DOUBLE[]) / list_sum(_sum.of_rows),
            'col': _sum.by_col / list_sum(_sum.of_rows)
        } END)[1],
(plane, window_tops, window_lefts, window_heights, window_widths) AS
    -- Of volumes NULL: their planes have more rows than windows have tops.
    CASE WHEN len(window_tops) >= len(plane) THEN list_transform(list_transform(
        [{
            'plane': list_transform(plane, lambda _row: list_transform(
                _row, lambda _value: CASE WHEN _value > 0 THEN _value::DOUBLE ELSE 0 END)),
            'middles': list_transform(window_lefts, lambda _left, _j: _left + window_widths[_j] / 2)
        }],
        lambda _positive: {
            'of_rows': list_transform(_positive.plane, lambda _row: list_sum(_row)),
            'by_x': list_sum(list_transform(_positive.plane, lambda _row: list_sum(list_transform(
                _row, lambda _value, _j: _positive.middles[_j] * _value))))
        }),
        lambda _sum: CASE WHEN list_sum(_sum.of_rows) > 0 THEN {
            'y': list_sum(list_transform(
                     _sum.of_rows, lambda _value, _i: (window_tops[_i] + window_heights[_i] / 2) * _value))
                 / list_sum(_sum.of_rows),
            'x': _sum.by_x / list_sum(_sum.of_rows)
        } END)[1] END;

-- A box of cells of every map: `scores`, `importance` and `exact` are lists of its cells, row by row, NULL where there is
-- no value; a value that is not exact is estimated.
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
                   lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])) AS z,
               flatten(list_transform(exact[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
                   lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])) AS listed_exact
        FROM obeql_store.map_rows WHERE map_id IN (SELECT map_id FROM member WHERE score NOT IN ({{ of_logit }}))
        UNION ALL
        SELECT map_id, true, clean_logit, clean_logit::FLOAT, patch_height, patch_width,
               flatten(list_transform(logit[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
                   lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)])),
               flatten(list_transform(exact[greatest(top_row, 0) + 1 : greatest(top_row + n_rows, 0)],
                   lambda _row: _row[greatest(left_col, 0) + 1 : greatest(left_col + n_cols, 0)]))
        FROM obeql_store.map_rows WHERE map_id IN (SELECT map_id FROM member WHERE score IN ({{ of_logit }}))
    )
    SELECT run_id, run_name, image_id, path, label, class_id, class_name, model, score, patch_height, patch_width,
           clean_score,
           {{ list score }} AS scores,
           {{ importance_list score }} AS importance,
           list_transform(z, lambda _z, _i: CASE WHEN _z IS NOT NULL THEN coalesce(listed_exact[_i], true) END) AS exact,
           map_id, score AS score_kind
    FROM (
        -- The clean scores are columns here, so that the lambdas above capture one number a map and not its formula.
        SELECT member.*, cut.* EXCLUDE (map_id), image.path, image.label,
               score_of(member.score, cut.clean, cut.clean) AS clean_score,
               {{ clean_rest member.score | cut.clean | cut.clean }} AS clean_rest
        FROM cut JOIN member ON member.map_id = cut.map_id AND cut.by_logit = (member.score IN ({{ of_logit }}))
        LEFT JOIN images AS image ON image.image_id = member.image_id
    );

-- The id of a run by its name or id, and of an image by its path, id or file stem; an error where there is none.
CREATE MACRO run_of(run) AS coalesce(
    (SELECT run_id FROM obeql_store.live_runs
     WHERE lower(run_name) = lower(run::VARCHAR) OR run_id = TRY_CAST(run::VARCHAR AS BIGINT)
     ORDER BY lower(run_name) IS NOT DISTINCT FROM lower(run::VARCHAR) DESC LIMIT 1),
    error('There is no run ''' || run::VARCHAR || '''.')::BIGINT);

CREATE MACRO image_of(image) AS coalesce(
    (SELECT coalesce(
                max(shown.image_id) FILTER (shown.path = image::VARCHAR),
                max(shown.image_id) FILTER (shown.image_id = TRY_CAST(image::VARCHAR AS BIGINT)),
                max(shown.image_id) FILTER (lower(shown.name) = lower(image::VARCHAR)))
     FROM obeql_store.image_rows AS shown),
    error('There is no image ''' || image::VARCHAR || '''.')::BIGINT);

-- The maps of one image in one run, named as `run_of` and `image_of` take them. `run_of` has found the run to be live, so
-- its row alone gives the score: joining live_runs would plan its aggregate a second time.
CREATE MACRO maps_of(run, image) AS TABLE
    SELECT member.map_id, member.run_id, member.image_id, member.class_id, member.class_name, chosen.score AS kind
    FROM obeql_store.run_maps AS member JOIN obeql_store.run_rows AS chosen ON chosen.run_id = member.run_id
    WHERE member.run_id = run_of(run) AND member.image_id = image_of(image);

-- The cells of one image in one run that have a value; those that are not `exact` are estimated, not computed.
-- The maps are chosen before their planes are read (through `cells` the planes of every run would be read first), and
-- without a join, whose estimated size would make DuckDB read all planes into a hash table. DuckDB reads a plane of all
-- maps of a row group for one of them, so only the plane that the score is made of is read: of the two scans one looks
-- for map 0, which no file has, and is spared by the row groups' ranges (looking for no map at all reads one of them).
CREATE MACRO cells_of(run, image) AS TABLE
    WITH chosen AS MATERIALIZED (SELECT * FROM maps_of(run, image)),
    wanted AS (
        SELECT coalesce(list(map_id) FILTER (kind NOT IN ({{ of_logit }})), [0]) AS by_log_odds,
               coalesce(list(map_id) FILTER (kind IN ({{ of_logit }})), [0]) AS by_logit
        FROM chosen
    ),
    opened AS (
        SELECT map_id, clean_log_odds, clean_logit, n_rows, n_cols, tops, lefts, heights, widths, log_odds AS z, top_class,
               exact
        FROM obeql_store.map_rows WHERE map_id IN (SELECT unnest(by_log_odds) FROM wanted)
        UNION ALL
        SELECT map_id, clean_log_odds, clean_logit, n_rows, n_cols, tops, lefts, heights, widths, logit, top_class, exact
        FROM obeql_store.map_rows WHERE map_id IN (SELECT unnest(by_logit) FROM wanted)
    ),
    by_cell AS (
        SELECT chosen.*, tops, lefts, heights, widths, n_cols, clean_logit, clean_log_odds,
               axes.starts[1] AS fronts, axes.lengths[1] AS depths,
               len(tops) > n_rows AS is_listed, unnest(range(n_rows * n_cols)) AS cell,
               unnest(flatten(z)) AS z, unnest(flatten(top_class)) AS top_class,
               unnest(flatten(exact)) AS listed_exact  -- without a list, NULL for every cell
        FROM opened JOIN chosen USING (map_id)
        LEFT JOIN obeql_store.axis_rows AS axes ON axes.map_id = opened.map_id
    ),
    scored AS (
        SELECT run_id, image_id, class_id, class_name, cell // n_cols AS line, cell % n_cols AS col, tops, lefts,
               fronts, depths,
               heights, widths, score_of(kind, z, z) AS score,
               importance_of(kind, clean_logit, clean_log_odds, z, z) AS importance,
               CASE WHEN kind <> 'value' THEN top_class END AS top_class, map_id,
               coalesce(listed_exact, true) AS exact, is_listed
        FROM by_cell
        WHERE z IS NOT NULL
    )
    SELECT run_id, image_id, class_id, class_name, line % len(tops) AS "row", col,
           -- Windows that a query listed have one row, and a top and a height each. A volume's lines are rows of planes.
           tops[CASE WHEN is_listed THEN col ELSE line % len(tops) END + 1] AS top_px, lefts[col + 1] AS left_px,
           heights[CASE WHEN is_listed THEN col ELSE line % len(tops) END + 1] AS height_px,
           widths[col + 1] AS width_px, score, importance, top_class, exact, map_id,
           CASE WHEN fronts IS NULL THEN 0 ELSE line // len(tops) END AS plane,
           coalesce(fronts[line // len(tops) + 1], 0) AS front_px, coalesce(depths[line // len(tops) + 1], 1) AS depth_px
    FROM scored;

-- The k cells of largest importance of each map of one image in one run, best first, ties row-major. An approximate
-- map's may be estimates: `exact` says which were computed.
CREATE MACRO top_cells(run, image, k) AS TABLE
    SELECT * EXCLUDE (map_id)
    FROM cells_of(run, image)
    QUALIFY row_number() OVER (PARTITION BY map_id ORDER BY importance DESC, plane, "row", col) <= k
    ORDER BY class_id, map_id, importance DESC, plane, "row", col;

-- The map of one image by pixels of the model's input: for each pixel the plain mean of the windows that hide it, which
-- is `exact` where all of these are. A window with a mask hides the spans of mask_rows, any other its whole box. `z` is
-- the plane of a volume's voxel, 0 of images.
CREATE MACRO pixel_map(run, image) AS TABLE
    WITH hidden AS (
        SELECT cell.*, listed.digests[cell.col + 1] AS digest
        FROM cells_of(run, image) AS cell
        LEFT JOIN (SELECT map_id, any_value(digests) AS digests FROM obeql_store.region_rows GROUP BY map_id) AS listed
            USING (map_id)
    ),
    spans AS (
        SELECT run_id, image_id, class_id, class_name, map_id, importance, exact, left_px AS start_px,
               left_px + width_px AS stop_px, unnest(range(top_px, top_px + height_px)) AS y, front_px, depth_px
        FROM hidden WHERE coalesce(digest, '') = ''
        UNION ALL
        SELECT run_id, image_id, class_id, class_name, map_id, importance, exact, left_px + unnest(starts),
               left_px + unnest(stops), top_px + unnest("rows"), 0, 1
        FROM hidden JOIN (
            SELECT digest, any_value("rows") AS "rows", any_value(starts) AS starts, any_value(stops) AS stops
            FROM obeql_store.mask_rows GROUP BY digest
        ) AS mask USING (digest)
    )
    SELECT run_id, image_id, class_id, class_name, map_id, y, x, avg(importance) AS importance,
           bool_and(exact) AS exact, z
    FROM (
        SELECT *, unnest(range(start_px, stop_px)) AS x
        FROM (
            SELECT run_id, image_id, class_id, class_name, map_id, importance, exact, y, start_px, stop_px,
                   unnest(range(front_px, front_px + depth_px)) AS z
            FROM spans
        )
    )
    GROUP BY ALL;

-- The k images of two runs whose maps overlap least, or most, where importance reaches `low`; as iou_at_least, with ties
-- by image. Bounds first: what k maps surely undercut, no other map needs to be read for. A NULL is no answer.
CREATE MACRO lowest_iou(first_run, second_run, low, k) AS TABLE
    {{ ranked_iou +1 }};
CREATE MACRO highest_iou(first_run, second_run, low, k) AS TABLE
    {{ ranked_iou -1 }};

-- The k maps of a run, or of all runs if it is NULL, of whose cells with low <= importance < high the smallest share, or
-- the largest, lies in the image's box. `boxes` is the name of a table with image_id, top, left, height and width, in cells.
CREATE MACRO lowest_share(run, boxes, low, high, k) AS TABLE
    {{ ranked_share +1 }};
CREATE MACRO highest_share(run, boxes, low, high, k) AS TABLE
    {{ ranked_share -1 }};

-- The order in which a deletion or insertion curve takes the pixels of each map: most important first, ties
-- row-major. `share` is the part of the covered pixels taken up to this one.
CREATE MACRO deletion_order(run, image) AS TABLE
    SELECT run_id, image_id, class_id, class_name, map_id,
           row_number() OVER (PARTITION BY map_id ORDER BY importance DESC, z, y, x) AS rank, y, x, importance,
           rank / count(*) OVER (PARTITION BY map_id) AS share, z
    FROM pixel_map(run, image)
    ORDER BY class_id, map_id, rank;
