"""OBEQL: a query engine for occlusion-based explanations of image classifiers."""
