"""The decoder as it is trained: a Llama in plain torch whose parameter names are the checkpoint's.

Pre-norm blocks, RMSNorm (eps 1e-5), rotary positions (halves, as in `transformers`), grouped key/value heads,
SwiGLU, tied embeddings. Serving has an implementation of its own; a test holds the two together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kelm.tune.recipe import Shape

EPS = 1e-5


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self._dim = shape.hidden_size, shape.head_dim
        self._heads, self._kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.q_proj = nn.Linear(width, self._heads * self._dim, bias=False)
        self.k_proj = nn.Linear(width, self._kv_heads * self._dim, bias=False)
        self.v_proj = nn.Linear(width, self._kv_heads * self._dim, bias=False)
        self.o_proj = nn.Linear(self._heads * self._dim, width, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        q, k, v = (
            proj(x).view(rows, tokens, -1, self._dim).transpose(1, 2)  # [B, H, T, D]
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotate(q, rope), _rotate(k, rope)
        repeat = self._heads // self._kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        joined: Tensor = self.o_proj(out.transpose(1, 2).reshape(rows, tokens, -1))
        return joined


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (table.to(x.dtype) for table in rope)  # [B, 1, T, D/2]
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, EPS)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, EPS)
        self.mlp = Mlp(shape)
        self._dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        x = x + self._dropout(self.self_attn(self.input_layernorm(x), rope, mask))
        out: Tensor = x + self._dropout(self.mlp(self.post_attention_layernorm(x)))
        return out


class Body(nn.Module):
    def __init__(self, shape: Shape, vocab: int, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, EPS)
        self._dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        x = self._dropout(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x, rope, mask)
        out: Tensor = self.norm(x)
        return out


class Decoder(nn.Module):
    """Predicts the next token. ``state_dict()`` has exactly the tensors that the exported checkpoint has."""

    def __init__(self, shape: Shape, vocab: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape, vocab, dropout)

    def initialize(self, generator: torch.Generator) -> None:
        """Normal weights of 0.02; what writes into the residual stream is scaled down by its depth (GPT-2)."""
        depth: float = (2 * self.shape.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
            else:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 * (depth if residual else 1.0), generator=generator)

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Logits [B, T, V] for ids, positions and segments [B, T] (see packing)."""
        return functional.linear(self.hidden(ids, positions, segments), self.model.embed_tokens.weight)

    def hidden(self, ids: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Normed last hidden states, [B, T, hidden]."""
        same = segments[:, :, None] == segments[:, None, :]
        mask = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril() & same  # [B, T, T]
        half = self.shape.head_dim // 2
        frequencies = self.shape.rope_theta ** -(torch.arange(half, dtype=torch.float32) / half)
        angles = positions[:, None, :, None].float() * frequencies
        out: Tensor = self.model(ids, (angles.cos(), angles.sin()), mask[:, None])
        return out
