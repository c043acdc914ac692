"""Write the maps of a run to files. `registry` says which suffix is which format."""
