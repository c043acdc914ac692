"""Estimating a heat map from some of its cells: reconstruction, which cells come next, and a bound on the quality.

Pure arithmetic on numbers of cells, without a network: `map_quality` compares maps, `gaussian_process` is the random
field behind an estimate, `sampler` decides. The operators `progressive_refine` and `pruned_top` bring the cells.
"""
