"""The decoder of InternLM-XComposer2-4KHD and its fine-tuning step as the official recipe has them, in plain PyTorch with PEFT.

Written from the published architecture: RMSNorm, wqkv packed by kv head, rotary positions, PLoRA on image rows, gated MLP, full
logits in float32, one checkpoint of activations a layer. It is what lorafit is measured against, so nothing here is tuned.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

TARGETS = ["attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]


@dataclass
class Config:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    eps: float
    theta: float
    plora: dict  # linear's name -> {"rank", "scale"}
    attention: str = "eager"  # or "sdpa"


class PLora(nn.Linear):
    """A linear with a low-rank branch that only image rows take; image_mask: (B, T) of bool, or the indexes that it comes to."""

    def __init__(self, inputs, outputs, rank, scale, **kwargs):
        super().__init__(inputs, outputs, bias=False, **kwargs)
        self.scale = scale
        self.matmul = F.linear
        self.Plora_A = nn.Linear(inputs, rank, bias=False, **kwargs)
        self.Plora_B = nn.Linear(rank, outputs, bias=False, **kwargs)

    def forward(self, x, image_mask):
        y = self.matmul(x, self.weight)
        y[image_mask] += self.Plora_B(self.Plora_A(x[image_mask])) * self.scale
        return y


class RMSNorm(nn.Module):
    def __init__(self, width, eps, **kwargs):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, **kwargs))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config, **kwargs):
        super().__init__()
        self.config = config
        H, G, D = config.heads, config.kv_heads, config.head_dim
        self.wqkv = PLora(config.hidden, (H + 2 * G) * D, **config.plora["attention.wqkv"], **kwargs)
        self.wo = PLora(H * D, config.hidden, **config.plora["attention.wo"], **kwargs)

    def forward(self, x, rope, image_mask):
        H, G, D = self.config.heads, self.config.kv_heads, self.config.head_dim
        B, T, _ = x.shape
        packed = self.wqkv(x, image_mask).view(B, T, G, H // G + 2, D)
        query = packed[..., : H // G, :].reshape(B, T, H, D).transpose(1, 2)
        key = packed[..., -2, :].transpose(1, 2)
        value = packed[..., -1, :].transpose(1, 2)
        query, key = rotate(query, *rope), rotate(key, *rope)
        key, value = (kv.repeat_interleave(H // G, dim=1) for kv in (key, value))
        out = self.attend(query, key, value).transpose(1, 2).reshape(B, T, H * D)
        return self.wo(out, image_mask)

    def attend(self, query, key, value):
        if self.config.attention == "sdpa":
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        T = query.shape[2]
        future = torch.full((T, T), torch.finfo(query.dtype).min, dtype=query.dtype, device=query.device).triu(1)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + future
        return F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


class FeedForward(nn.Module):
    def __init__(self, config, **kwargs):
        super().__init__()
        C, F_ = config.hidden, config.ffn
        self.w1 = PLora(C, F_, **config.plora["feed_forward.w1"], **kwargs)
        self.w3 = PLora(C, F_, **config.plora["feed_forward.w3"], **kwargs)
        self.w2 = PLora(F_, C, **config.plora["feed_forward.w2"], **kwargs)

    def forward(self, x, image_mask):
        return self.w2(F.silu(self.w1(x, image_mask)) * self.w3(x, image_mask), image_mask)


class Layer(nn.Module):
    def __init__(self, config, **kwargs):
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden, config.eps, **kwargs)
        self.attention = Attention(config, **kwargs)
        self.ffn_norm = RMSNorm(config.hidden, config.eps, **kwargs)
        self.feed_forward = FeedForward(config, **kwargs)

    def forward(self, h, rope, image_mask):
        h = h + self.attention(self.attention_norm(h), rope, image_mask)
        return h + self.feed_forward(self.ffn_norm(h), image_mask)


class Decoder(nn.Module):
    """The language model; its parameters have the official names."""

    def __init__(self, config, **kwargs):
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.tok_embeddings = nn.Embedding(config.vocab, config.hidden, **kwargs)
        self.model.layers = nn.ModuleList(Layer(config, **kwargs) for _ in range(config.layers))
        self.model.norm = RMSNorm(config.hidden, config.eps, **kwargs)
        self.output = nn.Linear(config.hidden, config.vocab, bias=False, **kwargs)

    def forward(self, h, targets, image_mask):
        """Mean loss. h: (1, T, C) embeddings, targets: (1, T) the label of the next row or -100, image_mask: (1, T) or its indexes."""
        rope = self.rope(h)
        h.requires_grad_()  # so that a checkpoint of a layer over frozen weights has a gradient
        for layer in self.model.layers:
            h = checkpoint(layer, h, rope, image_mask, use_reentrant=False)
        return self.forward_loss(self.model.norm(h), targets)

    def forward_loss(self, h, targets):
        logits = self.output(h).float()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    def rope(self, h):
        D = self.config.head_dim
        inverse = 1 / self.config.theta ** (torch.arange(0, D, 2, device=h.device).float() / D)
        angle = torch.arange(h.shape[1], device=h.device).float()[:, None] * inverse
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos().to(h.dtype), angle.sin().to(h.dtype)


def with_lora(decoder, *, rank, alpha):
    """PEFT's LoRA on every linear of the layers, all else frozen (PLoRA's own branches are part of the base)."""
    from peft import LoraConfig, get_peft_model

    decoder.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=TARGETS)
    return get_peft_model(decoder, config)


def adamw(parameters, learning_rate, kind=torch.optim.AdamW):
    return kind(list(parameters), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
