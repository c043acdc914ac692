"""Record what a module computes, and read what its outputs mean."""
