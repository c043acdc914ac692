-- What version 9 of the schema adds: maps of volumes, whose input has an axis more than that of images.
--
-- Planes of such a map are lines along the last axis, as those of images are: row n of a plane is row n % len(tops) of
-- plane n // len(tops) of the grid, and n_rows counts them all. tops, heights and patch_height are of one plane.

-- The axes of a map that has more than two, slowest first: where windows start along each, and how far they reach.
CREATE TABLE obeql_store.axis_rows (map_id BIGINT, patch INTEGER[], starts INTEGER[][], lengths INTEGER[][]);

ALTER TABLE obeql_store.run_maps ADD COLUMN stride_depth INTEGER;
ALTER TABLE obeql_store.run_maps ADD COLUMN input_depth INTEGER;
ALTER TABLE obeql_store.run_maps ADD COLUMN source_front DOUBLE;
ALTER TABLE obeql_store.run_maps ADD COLUMN source_depth DOUBLE;
ALTER TABLE obeql_store.model_rows ADD COLUMN input_depth INTEGER;
ALTER TABLE obeql_store.image_contents ADD COLUMN depth INTEGER;
ALTER TABLE obeql_store.image_contents ADD COLUMN pixel_depth_mm DOUBLE;
