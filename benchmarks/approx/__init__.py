"""How good and how fast approximate maps are; see `__main__`."""
