-- What version 6 of the schema adds; what it numbers anew, rows_6.sql does.

-- Of an image with several labels, the one that asked for a map.
ALTER TABLE obeql_store.run_maps ADD COLUMN label VARCHAR;

-- Of models, beside what is computed (model_hash), what their source held. NULL for a model that an earlier version
-- stored: its model_hash is that hash, and says nothing of Python code.
ALTER TABLE obeql_store.model_rows ADD COLUMN content_hash VARCHAR;

-- What a run was asked for: its images, and the cells of all maps of all of them.
CREATE TABLE obeql_store.run_sizes (run_id BIGINT, n_images BIGINT, n_cells BIGINT);

-- Which rows of run_maps are maps that are not finished: of an image at work, or one at which a run was interrupted.
-- `place` is the number of their grid, `n_computed` counts the cells that are there.
CREATE TABLE obeql_store.piece_rows (
    entry_id BIGINT, run_id BIGINT, image_id BIGINT, place INTEGER, n_computed BIGINT, written_at TIMESTAMP
);
