"""Answers of the decoder as transformers' generate gives them, in plain PyTorch: serve_cpu.py TASK, a file of JSON.

Greedy, with a cache of keys and values that grows by concatenation, as transformers' DynamicCache does; prompts come as
embeddings. A line on stdin is a run: {"prompts": [file, ...], "newTokens": n, "together": whether all are one batch}.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from safetensors import safe_open
from worker import answer, cpu_seconds

from official import Config, Decoder, rotate


def load(task):
    decoder = Decoder(Config(**task["model"]), dtype=torch.bfloat16)
    parameters = dict(decoder.named_parameters())
    for file in task["weights"]:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                if name in parameters:
                    parameters.pop(name).data.copy_(tensors.get_tensor(name))
    if parameters:
        raise SystemExit(f"the checkpoint lacks {list(parameters)}")
    return decoder.eval()


def attention(layer, h, rope, mask, cache):
    """h: (B, t, C), the newest rows; cache: [keys, values] of the rows before, or [None, None]."""
    config = layer.config
    H, G, D = config.heads, config.kv_heads, config.head_dim
    B, t, _ = h.shape
    packed = layer.wqkv(h, mask).view(B, t, G, H // G + 2, D)
    query = rotate(packed[..., : H // G, :].reshape(B, t, H, D).transpose(1, 2), *rope)
    key = rotate(packed[..., -2, :].transpose(1, 2), *rope)
    value = packed[..., -1, :].transpose(1, 2)
    cache[0] = key if cache[0] is None else torch.cat((cache[0], key), dim=2)
    cache[1] = value if cache[1] is None else torch.cat((cache[1], value), dim=2)
    key, value = (kv.repeat_interleave(H // G, dim=1) for kv in cache)
    out = F.scaled_dot_product_attention(query, key, value, is_causal=t > 1)
    return layer.wo(out.transpose(1, 2).reshape(B, t, H * D), mask)


def forward(decoder, h, mask, caches, first):
    """Logits, (B, V), of the token after the last row; first: position of the first row."""
    rope = tuple(table[first:] for table in decoder.rope(torch.empty(1, first + h.shape[1], 1, dtype=h.dtype)))
    for layer, cache in zip(decoder.model.layers, caches):
        h = h + attention(layer.attention, layer.attention_norm(h), rope, mask, cache)
        h = h + layer.feed_forward(layer.ffn_norm(h), mask)
    return decoder.output(decoder.model.norm(h[:, -1])).float()


def generate(decoder, prompts, new_tokens):
    """prompts: embeddings and picture masks of one length. Returns ids, (B, new_tokens), and the seconds of the prompts."""
    began = time.perf_counter()
    h = torch.stack([embeddings for embeddings, _ in prompts])
    mask = torch.stack([mask for _, mask in prompts]).bool()
    none = torch.zeros(len(prompts), 1, dtype=torch.bool)
    caches = [[None, None] for _ in decoder.model.layers]
    next_ids = forward(decoder, h, mask, caches, 0).argmax(-1)
    prompt_seconds = time.perf_counter() - began
    ids = [next_ids]
    for count in range(1, new_tokens):
        rows = decoder.model.tok_embeddings(next_ids)[:, None]
        next_ids = forward(decoder, rows, none, caches, h.shape[1] + count - 1).argmax(-1)
        ids.append(next_ids)
    return torch.stack(ids, dim=1).tolist(), prompt_seconds


def read(file):
    with safe_open(file, "pt") as tensors:
        return tensors.get_tensor("embeddings"), tensors.get_tensor("image_mask")


@torch.inference_mode()
def main():
    with open(sys.argv[1]) as file:
        task = json.load(file)
    torch.set_num_threads(task["threads"])
    decoder = load(task)
    answer(name=f"torch {torch.__version__}")
    for line in sys.stdin:
        run = json.loads(line)
        prompts = [read(file) for file in run["prompts"]]
        groups = [prompts] if run["together"] else [[prompt] for prompt in prompts]
        began, cpu = time.perf_counter(), cpu_seconds()
        made = [generate(decoder, group, run["newTokens"]) for group in groups]
        seconds = time.perf_counter() - began
        answer(
            seconds=seconds,
            cpuSeconds=cpu_seconds() - cpu,
            promptSeconds=sum(prompt_seconds for _, prompt_seconds in made),
            ids=[ids for group, _ in made for ids in group],
        )


main()
