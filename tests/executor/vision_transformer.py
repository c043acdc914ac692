"""A small vision transformer, with attention in the ways that people write it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE, PATCH, WIDTH, HEADS = 24, 6, 12, 3
#: ways to write attention
FORMS = ("fused", "written", "scaled before", "baddbmm-free", "masked", "one head", "module", "module, tokens first")


class SelfAttention(nn.Module):
    """Attention in one of the ways people write it."""

    def __init__(self, form: str, n_tokens: int) -> None:
        super().__init__()
        self.form = form
        self.heads = 1 if form == "one head" else HEADS
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.randn(1, self.heads, n_tokens, n_tokens))
        self.module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=form == "module")

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "module":
            return self.module(x, x, x, need_weights=False)[0]
        if self.form == "module, tokens first":
            y = x.transpose(0, 1)
            return self.module(y, y, y, need_weights=True)[0].transpose(0, 1)
        n, t, c = x.shape
        width = c // self.heads
        if self.form == "baddbmm-free":
            parts = [p.view(n, t, self.heads, width).transpose(1, 2) for p in self.qkv(x).chunk(3, dim=-1)]
            q, k, v = (p.reshape(n * self.heads, t, width) for p in parts)
            weights = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(width)
            y = torch.bmm(weights.softmax(-1), v).view(n, self.heads, t, width)
            return self.out(y.transpose(1, 2).reshape(n, t, c))
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        if self.form in ("fused", "one head"):
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.form == "masked":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        elif self.form == "scaled before":
            y = ((q * width**-0.5) @ k.transpose(-2, -1) + self.bias).softmax(dim=-1) @ v
        else:
            y = F.dropout((q @ k.transpose(-2, -1) * width**-0.5).softmax(dim=-1), 0.1, self.training) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class Transformer(nn.Module):
    """A vision transformer: blocks of attention and a product with an activation, each beside what it reads."""

    def __init__(self, form: str = "fused", head: str = "token", n_blocks: int = 2, n_registers: int = 0) -> None:
        super().__init__()
        self.head_reads, self.n_registers = head, n_registers
        n_patches = (SIZE // PATCH) ** 2
        n_tokens = n_patches + n_registers + (head != "mean of a map")
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.registers = nn.Parameter(torch.randn(1, n_registers, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, n_tokens, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * n_blocks))
        self.attention = nn.ModuleList(SelfAttention(form, n_tokens) for _ in range(n_blocks))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)) for _ in range(n_blocks)
        )
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.head_reads != "mean of a map":
            extra = [self.token.expand(len(x), -1, -1)]
            if self.n_registers:
                extra.append(self.registers.expand(len(x), -1, -1))
            x = torch.cat([*extra, x], dim=1)
        x = x + self.positions
        for k, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            x = x + attention(self.norms[2 * k](x)) * self.scale
            x = x + mlp(self.norms[2 * k + 1](x))
        if self.head_reads == "token":
            return self.head(self.norm(x)[:, 0])
        if self.head_reads == "mean of patches":
            return self.head(self.norm(x[:, 1:].mean(dim=1)))
        return self.head(self.norm(x).mean(dim=1))
