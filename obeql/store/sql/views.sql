-- What users read; what is added to a view comes after its other columns. The file alone answers these views in any DuckDB >= 1.5; nothing of OBEQL need be installed.
--
-- Formulas of scores are written out instead of shared through macros: a view keeps working when the file is attached
-- under another name, a macro called by it would not be found there. What stands in {{ }} is written by
-- obeql.store.score_sql from the scores that obeql.planner.scores declares; why their formulas are safe, it says there.

CREATE VIEW models AS
SELECT name, model_hash, uri, n_classes, input_height, input_width, activation, classes, preprocessing, options,
       preprocessing_hash, written_at AS created_at, input_depth
FROM (FROM obeql_store.model_rows QUALIFY row_number() OVER (PARTITION BY lower(name) ORDER BY entry_id DESC) = 1)
WHERE live;

CREATE VIEW images AS
SELECT latest.image_id, latest.path, latest.name, latest.label, latest.columns, content.image_hash,
       content.height, content.width, content.series_uid, content.pixel_height_mm, content.pixel_width_mm,
       content.depth, content.pixel_depth_mm
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
       run.options, run.measured, run.plan, run.versions, run.model_hash, run.preprocessing_hash,
       run.score AS score_kind,
       -- The share of the cells asked for that is stored, those of maps that are not finished included.
       CASE WHEN run.status = 'done' THEN 1.0::DOUBLE
            ELSE least(1.0, coalesce(content.n_images, 0) / size.n_images + coalesce(piece.n_computed, 0) / size.n_cells)
       END AS share
FROM obeql_store.live_runs AS run
LEFT JOIN (
    SELECT run_id, count(DISTINCT image_id) AS n_images, count(*) AS n_maps
    FROM obeql_store.run_maps WHERE entry_id NOT IN (SELECT entry_id FROM obeql_store.piece_rows) GROUP BY run_id
) AS content USING (run_id)
LEFT JOIN (
    SELECT run_id, sum(n_computed) AS n_computed FROM obeql_store.piece_rows GROUP BY run_id
) AS piece USING (run_id)
LEFT JOIN obeql_store.run_sizes AS size USING (run_id)
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

-- The names of the channels of models' inputs, by how images are prepared for them.
CREATE VIEW obeql_store.channel_names AS
SELECT preprocessing_hash,
       CASE json_extract_string(any_value(preprocessing), '$.channels')
           WHEN 'rgb' THEN ['red', 'green', 'blue'] WHEN 'bgr' THEN ['blue', 'green', 'red'] WHEN 'gray' THEN ['gray']
           ELSE json_extract_string(any_value(preprocessing), '$.channels[*]') END AS channels
FROM obeql_store.model_rows GROUP BY preprocessing_hash;

-- Every map that is stored, wherever its planes are; made anew when maps stay in Parquet files.
CREATE VIEW obeql_store.map_rows AS FROM obeql_store.maps;

-- One row a map of a run. clean_score - scores = importance: positive is evidence for the class.
CREATE VIEW heatmaps AS
SELECT run_id, run_name, image_id, path, label, class_id, class_name, model, score, patch_height, patch_width,
       stride_height, stride_width, split_part(fill, '@', 1) AS fill, border, "precision", "rows", cols, clean_score,
       CASE WHEN score <> 'value' THEN clean_probability END AS clean_probability,
       CASE WHEN score <> 'value' THEN clean_log_odds END AS clean_log_odds, clean_logit,
       CASE WHEN score <> 'value' THEN clean_top_class END AS clean_top_class, approx, metric, target, confidence, bound,
       n_exact, n_audit, seed,
       {{ planes score }} AS scores,
       {{ importance_planes score }} AS importance,
       CASE WHEN score <> 'value' THEN log_odds END AS log_odds, logit, others,
       CASE WHEN score <> 'value' THEN top_class END AS top_class, exact, tops, lefts, heights, widths, input_height,
       input_width,
       source_top, source_left, source_height, source_width, image_hash, model_hash, preprocessing_hash, map_id, quality,
       name, score AS score_kind, regions, channel,
       -- The shape of the grid, an axis after the other: a signal, which has one row, has one.
       CASE WHEN axes IS NOT NULL THEN list_transform(axes.starts, lambda _axis: len(_axis))
            WHEN input_height = 1 THEN [cols] ELSE ["rows", cols] END AS shape,
       axes.patch[1] AS patch_depth, stride_depth, axes.starts[1] AS fronts, axes.lengths[1] AS depths, input_depth,
       source_front, source_depth
FROM (
    -- The clean scores are columns here, so that the lambdas above capture one number a map and not its formula.
    SELECT member.* EXCLUDE (label),
           map.* EXCLUDE (map_id, digest, class_id, model_hash, preprocessing_hash, n_rows, n_cols),
           -- Planes of a volume are lines, those of one plane of the grid after those of the other.
           CASE WHEN axes.map_id IS NULL THEN map.n_rows ELSE len(map.tops) END AS "rows",
           map.n_cols AS cols, CASE WHEN axes.map_id IS NOT NULL THEN axes END AS axes, runs.run_name, image.name, image.path,
           coalesce(member.label, image.label) AS label, runs.model, runs.score, runs.model_hash,
           runs.preprocessing_hash, runs.border,
           {{ score runs.score | map.clean_logit | map.clean_log_odds }} AS clean_score,
           {{ clean_rest runs.score | map.clean_logit | map.clean_log_odds }} AS clean_rest,
           {{ formula probability | map.clean_log_odds }} AS clean_probability,
           map.clean_log_odds::FLOAT AS clean_log_odds_float, map.clean_logit::FLOAT AS clean_logit_float,
           listed.names AS regions,
           {{ channel map.fill | known.channels }} AS channel
    FROM obeql_store.run_maps AS member
    JOIN obeql_store.live_runs AS runs ON runs.run_id = member.run_id
    JOIN obeql_store.map_rows AS map ON map.map_id = member.map_id
    LEFT JOIN obeql_store.axis_rows AS axes ON axes.map_id = member.map_id
    LEFT JOIN obeql_store.region_rows AS listed ON listed.entry_id = member.entry_id
    LEFT JOIN obeql_store.channel_names AS known ON known.preprocessing_hash = map.preprocessing_hash
    LEFT JOIN images AS image ON image.image_id = member.image_id
);

-- Maps for questions over many of them: each in one value, of which count_between, at_least and iou_at_least compute no more
-- than is asked. `heatmaps` reads both planes and computes the importance of every cell first; here a score reads its own.
CREATE VIEW flat_maps AS
SELECT run_name, image_id, name, path, label, class_id, class_name, model, score_kind, patch_height, patch_width,
       stride_height, stride_width, clean_score,
       CASE WHEN score_kind <> 'value' THEN clean_top_class END AS clean_top_class,
       {'z': z, 'score': score_kind, 'clean': clean_z, 'clean_score': clean_score, 'clean_rest': clean_rest,
        'n_rows': n_rows, 'n_cols': n_cols} AS map,
       run_id, map_id,
       {{ channel fill | known.channels }} AS channel
FROM (
    SELECT member.run_id, member.image_id, member.class_id, member.class_name, member.map_id,
           member.stride_height, member.stride_width, coalesce(member.label, image.label) AS label,
           runs.run_name, runs.model, runs.score AS score_kind, image.name, image.path,
           map.patch_height, map.patch_width, map.fill, map.preprocessing_hash, map.clean_top_class,
           map.clean_log_odds::FLOAT AS clean_z, map.n_rows, map.n_cols, flatten(map.log_odds) AS z,
           {{ score runs.score | map.clean_log_odds | map.clean_log_odds }} AS clean_score,
           {{ clean_rest runs.score | map.clean_log_odds | map.clean_log_odds }} AS clean_rest
    FROM obeql_store.run_maps AS member
    JOIN obeql_store.live_runs AS runs ON runs.run_id = member.run_id AND runs.score NOT IN ({{ of_logit }})
    JOIN obeql_store.map_rows AS map ON map.map_id = member.map_id
    LEFT JOIN images AS image ON image.image_id = member.image_id
    UNION ALL
    SELECT member.run_id, member.image_id, member.class_id, member.class_name, member.map_id,
           member.stride_height, member.stride_width, coalesce(member.label, image.label) AS label,
           runs.run_name, runs.model, runs.score AS score_kind, image.name, image.path,
           map.patch_height, map.patch_width, map.fill, map.preprocessing_hash, map.clean_top_class,
           map.clean_logit::FLOAT AS clean_z, map.n_rows, map.n_cols, flatten(map.logit) AS z,
           {{ score runs.score | map.clean_logit | map.clean_logit }} AS clean_score,
           {{ clean_rest runs.score | map.clean_logit | map.clean_logit }} AS clean_rest
    FROM obeql_store.run_maps AS member
    JOIN obeql_store.live_runs AS runs ON runs.run_id = member.run_id AND runs.score IN ({{ of_logit }})
    JOIN obeql_store.map_rows AS map ON map.map_id = member.map_id
    LEFT JOIN images AS image ON image.image_id = member.image_id
) AS found
LEFT JOIN obeql_store.channel_names AS known ON known.preprocessing_hash = found.preprocessing_hash;

-- The maps by their histograms, for count_bounds and iou_bounds, which read no plane.
CREATE VIEW coarse_maps AS
SELECT run_name, image_id, name, path, label, class_id, class_name, model, score_kind, patch_height, patch_width,
       stride_height, stride_width, clean_score,
       CASE WHEN score_kind <> 'value' THEN clean_top_class END AS clean_top_class,
       {'counts': counts, 'score': score_kind, 'clean': clean, 'clean_logit': clean_logit, 'clean_score': clean_score,
        'clean_rest': clean_rest, 'n_rows': n_rows, 'n_cols': n_cols} AS map,
       run_id, map_id,
       {{ channel fill | known.channels }} AS channel
FROM (
    SELECT member.run_id, member.image_id, member.class_id, member.class_name, member.map_id,
           member.stride_height, member.stride_width, coalesce(member.label, image.label) AS label,
           runs.run_name, runs.model, runs.score AS score_kind, image.name, image.path,
           map.patch_height, map.patch_width, map.fill, map.preprocessing_hash, map.clean_top_class, map.n_rows,
           map.n_cols, map.clean_log_odds::FLOAT AS clean, map.clean_logit::FLOAT AS clean_logit, histogram.counts,
           {{ score runs.score | map.clean_logit | map.clean_log_odds }} AS clean_score,
           {{ clean_rest runs.score | map.clean_logit | map.clean_log_odds }} AS clean_rest
    FROM obeql_store.run_maps AS member
    JOIN obeql_store.live_runs AS runs ON runs.run_id = member.run_id
    JOIN obeql_store.maps AS map ON map.map_id = member.map_id
    LEFT JOIN obeql_store.histogram_rows AS histogram ON histogram.map_id = member.map_id
    LEFT JOIN images AS image ON image.image_id = member.image_id
) AS found
LEFT JOIN obeql_store.channel_names AS known ON known.preprocessing_hash = found.preprocessing_hash;

-- One row for each map and measure of EVALUATE; of the same steps and fill, the latest counts.
CREATE VIEW evaluations AS
SELECT row.run_id, run.run_name, row.image_id, image.path, coalesce(member.label, image.label) AS label,
       member.class_id, member.class_name,
       map.patch_height, map.patch_width, run.score, row.measure, row.auc, row.steps, row.fill, row.shares,
       row.probabilities, row.map_id, image.name, run.score AS score_kind
FROM (
    FROM obeql_store.evaluation_rows
    QUALIFY row_number() OVER (
        PARTITION BY run_id, map_id, image_id, measure, steps, fill ORDER BY entry_id DESC
    ) = 1
) AS row
JOIN obeql_store.live_runs AS run ON run.run_id = row.run_id
JOIN (
    SELECT run_id, map_id, image_id, any_value(class_id) AS class_id, any_value(class_name) AS class_name,
           any_value(label) AS label
    FROM obeql_store.run_maps GROUP BY run_id, map_id, image_id
) AS member ON member.run_id = row.run_id AND member.map_id = row.map_id AND member.image_id = row.image_id
JOIN (SELECT map_id, patch_height, patch_width FROM obeql_store.maps) AS map ON map.map_id = row.map_id
LEFT JOIN images AS image ON image.image_id = row.image_id;

-- One row a window, with what is known of its map: what `cells` and `windows` show of it. row and col count from 0;
-- pixels are those of the model's input; NULL: not computed.
CREATE VIEW obeql_store.cell_rows AS
SELECT * EXCLUDE (clean_rest, listed_exact, logit),
       CASE WHEN clean_rest IS NOT NULL THEN {{ rest score_kind | logit | log_odds }} - clean_rest
            ELSE clean_score - score END AS importance,
       CASE WHEN score_kind <> 'value' THEN logit END AS logit
FROM (
    SELECT *,
           CASE WHEN logit IS NOT NULL THEN coalesce(listed_exact, true) END AS exact,
           {{ formula probability | log_odds }} AS probability,
           {{ formula log_probability | log_odds }} AS log_probability,
           {{ score score_kind | logit | log_odds }} AS score
    FROM (
        SELECT * EXCLUDE (cols, lefts, widths, log_odds, logit, top_class, exact, deep_plane, deep_front, deep_depth),
               coalesce(deep_plane, 0) AS plane, coalesce(deep_front, 0) AS front_px,
               coalesce(deep_depth, 1) AS depth_px, unnest(range(cols)) AS col, unnest(lefts) AS left_px, unnest(widths) AS width_px,
               unnest(log_odds) AS log_odds, unnest(logit) AS logit, unnest(top_class) AS top_class,
               unnest(exact) AS listed_exact, NULL::VARCHAR AS region
        FROM (
            SELECT run_id, run_name, image_id, name, path, label, class_id, class_name, model, model_hash, score_kind,
                   patch_height, patch_width, patch_depth, input_height, source_top, source_left,
                   source_height / input_height AS down,
                   source_width / input_width AS across, clean_score,
                   {{ clean_rest score_kind | clean_logit | clean_log_odds }} AS clean_rest,
                   cols, lefts, widths, channel, source_front, source_depth / input_depth AS inward,
                   -- Of a volume the rows of every plane, one after the other; without planes NULL for every row.
                   unnest({{ every_plane fronts | range("rows") }}) AS "row",
                   unnest({{ every_plane fronts | tops }}) AS top_px,
                   unnest({{ every_plane fronts | heights }}) AS height_px,
                   unnest({{ every_row tops | range(len(fronts)) }}) AS deep_plane,
                   unnest({{ every_row tops | fronts }}) AS deep_front,
                   unnest({{ every_row tops | depths }}) AS deep_depth,
                   unnest(log_odds) AS log_odds, unnest(logit) AS logit, unnest(top_class) AS top_class,
                   unnest(exact) AS exact
            FROM main.heatmaps WHERE patch_height > 0
        )
        UNION ALL BY NAME
        -- Windows that a query listed: each has its own top and height, too.
        SELECT run_id, run_name, image_id, name, path, label, class_id, class_name, model, model_hash, score_kind,
               patch_height, patch_width, patch_depth, input_height, source_top, source_left,
               source_height / input_height AS down,
               source_width / input_width AS across, clean_score,
               {{ clean_rest score_kind | clean_logit | clean_log_odds }} AS clean_rest,
               0::BIGINT AS "row", 0::BIGINT AS plane, 0 AS front_px, 1 AS depth_px,
               NULL::DOUBLE AS source_front, NULL::DOUBLE AS inward, unnest(range(cols)) AS col, unnest(tops) AS top_px, unnest(heights) AS height_px,
               unnest(lefts) AS left_px, unnest(widths) AS width_px, unnest(log_odds[1]) AS log_odds,
               unnest(logit[1]) AS logit, unnest(top_class[1]) AS top_class, unnest(exact[1]) AS listed_exact,
               unnest(regions) AS region, channel
        FROM main.heatmaps WHERE patch_height = 0
    )
);

CREATE VIEW cells AS
SELECT run_id, image_id, class_id, class_name, "row", col, top_px, left_px, height_px, width_px, score, importance,
       probability, log_probability, log_odds, logit, top_class, exact, region, plane, front_px, depth_px
FROM obeql_store.cell_rows;

-- The names of a model's classes, by the name that the run knew it by: the latest of a hash. A network with one output
-- has the classes no and yes, of which versions of the schema before 6 named the second alone.
CREATE VIEW obeql_store.class_names AS
SELECT name, model_hash,
       CASE WHEN yes_no AND len(classes) = 0 THEN ['no', 'yes']
            WHEN yes_no AND len(classes) = 1 THEN ['not ' || classes[1], classes[1]]
            ELSE classes END AS classes
FROM (
    SELECT lower(name) AS name, model_hash, arg_max(classes, entry_id) AS classes,
           arg_max(activation <> 'none' AND (n_classes = 1 OR contains(network, '"yes_no"')), entry_id) AS yes_no
    FROM obeql_store.model_rows GROUP BY ALL
);

-- The cells that have a value as people read them, names in place of numbers.
CREATE VIEW windows AS
SELECT coalesce(cell.run_name, cell.run_id::VARCHAR) AS run, cell.name AS image, cell.label, cell.class_name,
       CASE WHEN cell.region IS NOT NULL THEN 'listed'
            WHEN cell.input_height = 1 AND cell.inward IS NULL THEN cell.patch_width::VARCHAR  -- a signal has one row
            WHEN cell.inward IS NOT NULL
            THEN cell.patch_depth || 'x' || cell.patch_height || 'x' || cell.patch_width
            ELSE cell.patch_height || 'x' || cell.patch_width END AS patch,
       cell.importance, cell.score, cell.clean_score,
       cell.score_kind,
       {{ unit cell.score_kind }} AS score_unit,
       CASE WHEN cell.top_class = cell.class_id THEN cell.class_name
            ELSE coalesce(known.classes[cell.top_class + 1], cell.top_class::VARCHAR) END AS top_class_name,
       cell.exact, cell."row", cell.col, cell.top_px, cell.left_px, cell.height_px, cell.width_px,
       cell.source_top + cell.top_px * cell.down AS source_top_px,
       cell.source_left + cell.left_px * cell.across AS source_left_px,
       cell.height_px * cell.down AS source_height_px, cell.width_px * cell.across AS source_width_px,
       cell.model, cell.path, cell.run_id, cell.image_id, cell.class_id, cell.top_class, cell.region, cell.channel,
       cell.plane, cell.front_px, cell.depth_px,
       coalesce(cell.source_front + cell.front_px * cell.inward, 0) AS source_front_px,
       coalesce(cell.depth_px * cell.inward, 1) AS source_depth_px
FROM obeql_store.cell_rows AS cell
LEFT JOIN obeql_store.class_names AS known ON known.name = lower(cell.model) AND known.model_hash = cell.model_hash
WHERE cell.score IS NOT NULL;

-- The windows that queries listed, by name.
CREATE VIEW regions AS
SELECT run, image, label, class_name, region AS name, importance, score, clean_score, score_kind, top_class_name, exact,
       top_px, left_px, height_px, width_px, source_top_px, source_left_px, source_height_px, source_width_px, col AS place,
       model, path, run_id, image_id, class_id, top_class
FROM windows WHERE region IS NOT NULL;
