-- What version 6 of the schema adds, and what it numbers anew.

-- Of an image with several labels, the one that asked for a map.
ALTER TABLE obeql_store.run_maps ADD COLUMN label VARCHAR;

-- Of models, beside what is computed (model_hash), what their source held. NULL for a model that an earlier version
-- stored: its model_hash is that hash, and says nothing of Python code.
ALTER TABLE obeql_store.model_rows ADD COLUMN content_hash VARCHAR;

-- A network with one output has two classes, 0 = no and 1 = yes. Earlier versions kept its maps, which are those of yes,
-- as class 0, though their arg-max classes counted as they do now. This is the one change of rows that are there.
UPDATE obeql_store.run_maps SET class_id = 1, class_name = CASE WHEN class_name = '0' THEN 'yes' ELSE class_name END
WHERE class_id = 0 AND map_id IN (
    SELECT map_id FROM obeql_store.maps
    WHERE model_hash IN (SELECT model_hash FROM obeql_store.model_rows WHERE n_classes = 1)
);
UPDATE obeql_store.maps SET class_id = 1
WHERE class_id = 0 AND model_hash IN (SELECT model_hash FROM obeql_store.model_rows WHERE n_classes = 1);
UPDATE obeql_store.prediction_rows
SET class_id = 1, class_name = CASE WHEN class_name = '0' THEN 'yes' ELSE class_name END
WHERE class_id = 0 AND model_hash IN (SELECT model_hash FROM obeql_store.model_rows WHERE n_classes = 1);
UPDATE obeql_store.model_rows
SET n_classes = 2, classes = CASE len(classes) WHEN 0 THEN ['no', 'yes'] ELSE ['not ' || classes[1], classes[1]] END
WHERE n_classes = 1;

-- What a run was asked for: its images, and the cells of all maps of all of them.
CREATE TABLE obeql_store.run_sizes (run_id BIGINT, n_images BIGINT, n_cells BIGINT);

-- Which rows of run_maps are maps that are not finished: of an image at work, or one at which a run was interrupted.
-- `place` is the number of their grid, `n_computed` counts the cells that are there.
CREATE TABLE obeql_store.piece_rows (
    entry_id BIGINT, run_id BIGINT, image_id BIGINT, place INTEGER, n_computed BIGINT, written_at TIMESTAMP
);
