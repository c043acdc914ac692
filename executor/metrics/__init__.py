"""Measure how well a heat map ranks pixels."""
