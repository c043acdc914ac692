"""Measure how fast a device runs a model's layers, for the planner's estimates."""
