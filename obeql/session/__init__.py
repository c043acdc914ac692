"""A session: one database and the statements that run against it.

`session` is what users hold, `statements` has a method for each statement; those that need more have a module of their
own (`explain`, `predict`, `evaluate`, `render_export`). The registries hold what statements name: models, images, runs.
"""
