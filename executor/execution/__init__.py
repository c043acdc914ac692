"""Carry out a plan: image after image, grid after grid, from the decoded image to the stored map."""
