"""The physical operators of a plan, a module each, and the pieces that they share."""
