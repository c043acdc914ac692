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
