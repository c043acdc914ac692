"""Estimating a heat map from some of its cells: reconstruction, which cells come next, and a bound on the quality.

Pure arithmetic on numbers of cells, without a network: `quality` compares maps, `kriging` is the random field behind
an estimate, `refiner` decides. The operators `progressive_refine` and `pruned_top` bring the cells.
"""
