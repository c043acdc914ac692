-- What version 10 of the schema adds: a coarse histogram of each map, from which bounds on counts of cells are read
-- without its planes (the CHI of MaskSearch, He et al., ICDE 2024). `obeql.store.histograms` says which edges and regions.

-- counts[e][r]: cells of region r whose importance in log-odds is edge e or more. A map without a row is read whole.
CREATE TABLE obeql_store.histogram_rows (map_id BIGINT, counts UTINYINT[][] USING COMPRESSION uncompressed);
