"""Rewrite a captured network into a smaller one that computes the same."""
