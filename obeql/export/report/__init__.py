"""The HTML report of a run: one file with every map and the numbers of the window under the pointer."""
