"""Tell models apart: hashes of what a model computes and holds."""
