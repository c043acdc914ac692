"""Bind a statement: look up its names and check its values, with errors placed in its text."""
