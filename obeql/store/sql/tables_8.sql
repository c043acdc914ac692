-- What version 8 of the schema adds: maps of windows that a query listed (WINDOWS). Such a map has one row in its planes,
-- a patch of 0 x 0, and window i is (tops[i], lefts[i], heights[i], widths[i]).

-- By row of run_maps: what the run called each window, and the digest of its mask, '' where the whole box is hidden.
CREATE TABLE obeql_store.region_rows (
    entry_id BIGINT, map_id BIGINT, names VARCHAR[], digests VARCHAR[]
);

-- Masks by digest: pixels (rows[k], starts[k]) to (rows[k], stops[k] - 1) of the box are hidden, for every k.
CREATE TABLE obeql_store.mask_rows (
    digest VARCHAR, height INTEGER, width INTEGER, "rows" INTEGER[], starts INTEGER[], stops INTEGER[]
);
