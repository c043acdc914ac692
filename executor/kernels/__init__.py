"""Tensor kernels: the few operations whose speed decides, each with a plain PyTorch form that runs anywhere."""
