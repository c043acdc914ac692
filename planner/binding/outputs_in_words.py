"""What a model's outputs were taken for, in words: for the message of CREATE MODEL, and for DESCRIBE MODEL."""

from __future__ import annotations

from obeql.planner.catalog import ModelRecord

__all__ = ["classes_text", "outputs_text"]


def classes_text(model: ModelRecord) -> str:
    """Return how many classes, or values, the model has, and what its outputs are unless they are plain logits."""
    layers = model.network.layers
    n = model.n_classes
    if model.has_values:
        return f"{n} value{'s' if n != 1 else ''} (as the network returns {'them' if n != 1 else 'it'})"
    if model.yes_no:
        is_probability = layers[-2].kind == "probabilities"
        what = "a probability, yes from 0.5 on" if is_probability else "a logit, yes where it is above 0"
        no, yes = (model.class_name(i) for i in range(2))
        return f"2 classes, 0 = {no} and 1 = {yes} (one output: {what})"
    if layers[-1].kind != "probabilities":
        return f"{n} classes{' (each judged alone)' if model.activation == 'sigmoid' else ''}"
    alone = model.activation == "sigmoid"
    return f"{n} classes (probabilities{', each class judged alone' if alone else ' that sum to 1'})"


def outputs_text(model: ModelRecord) -> str:
    """Return which of several outputs is read, `read from 'out' (4) of 'features' (512), 'out' (4)`; else nothing."""
    outputs = model.network.outputs
    if len(outputs) < 2:
        return ""
    shown = [f"'{each.name}' ({'x'.join(map(str, each.shape)) or 'a number'})" for each in outputs]
    chosen = next((text for text, each in zip(shown, outputs, strict=True) if each.chosen), "?")
    return f"read from {chosen} of the outputs {', '.join(shown)}"
