"""The official way on a card, beside lorafit in one run of bench/gpu/run.ts: official_gpu.py TASK, a file of JSON.

Variant "plain": PyTorch, PEFT, a checkpoint a layer, AdamW, flash attention by PyTorch's own choice. Variant "kernels": the same with
what can be imported of Liger (RMSNorm, SwiGLU, fused loss), bitsandbytes (NF4 base, 8-bit AdamW) and, where the case has activations
on the host or a cap, Unsloth (checkpoints there). Weights are random and made on the device.

The picture's rows are told by index, which is what a mask comes to: the official code has the device count its mask in each linear, and
the host wait for that. Memory is the same, the peer is spared the waits, and a device that computes nothing can't miscount.
"""

import importlib
import json
import os
import resource
import sys
import time
from importlib.metadata import version

import torch
from safetensors import safe_open
from torch import nn
from worker import answer, serve

import official
from official import Config, Decoder, adamw, trainable, with_lora

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TILE, SIDE = 336, 12


def optional(name):
    try:
        return importlib.import_module(name)
    except Exception as reason:  # a kernel library may fail in many ways where there is no card
        print(f"{name} is not used: {reason}", file=sys.stderr)
        return None


class Vision(nn.Module):
    """CLIP's tower by transformers, 2 x 2 patches merged, separators, the projector; frozen."""

    def __init__(self, vision, hidden, **kwargs):
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        config = CLIPVisionConfig(
            hidden_size=vision["hidden"],
            intermediate_size=vision["ffn"],
            num_hidden_layers=vision["layers"],
            num_attention_heads=vision["heads"],
            image_size=TILE,
            patch_size=vision["patchPixels"],
        )
        with torch.device(kwargs["device"]):
            self.tower = CLIPVisionModel(config).to(kwargs["dtype"])
        width = 4 * vision["hidden"]
        self.row_end, self.between = (nn.Parameter(torch.zeros(1, width, **kwargs)) for _ in range(2))
        self.projector = nn.Sequential(
            nn.Linear(width, hidden, **kwargs), nn.GELU(), nn.Linear(hidden, hidden, **kwargs)
        )

    @torch.no_grad()
    def forward(self, tiles, rows, cols):
        features = self.tower(tiles, output_hidden_states=True).hidden_states[-1][:, 1:]
        n, _, width = features.shape
        grid = features.view(n, SIDE, 2, SIDE, 2, width).permute(0, 1, 3, 2, 4, 5).reshape(n, SIDE, SIDE, 4 * width)
        whole = grid[1:].view(rows, cols, SIDE, SIDE, -1).transpose(1, 2).reshape(rows * SIDE, cols * SIDE, -1)
        parts = [self.with_row_ends(grid[0]), self.between, self.with_row_ends(whole)]
        return self.projector(torch.cat(parts))

    def with_row_ends(self, grid):
        ends = self.row_end.expand(grid.shape[0], 1, -1)
        return torch.cat([grid, ends], dim=1).flatten(0, 1)


def tiles_of(pixels, global_view, **kwargs):
    """[global view, tiles row by row], normalised: (n, 3, 336, 336)."""
    rows, cols = pixels.shape[0] // TILE, pixels.shape[1] // TILE
    tiles = pixels.view(rows, TILE, cols, TILE, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, TILE, TILE)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    normalised = (tiles.float() / 255 - mean) / std
    return torch.cat([global_view[None], normalised]).to(**kwargs), rows, cols


def use_kernels(decoder, *, nf4, offloaded):
    """Puts the libraries' kernels in place; returns AdamW's class and the names of what was used."""
    used, optimizer = [], torch.optim.AdamW
    if liger := optional("liger_kernel.transformers"):
        norm = liger.LigerRMSNorm
        official.RMSNorm.forward = lambda self, x: norm.forward(self, x)
        for module in decoder.modules():
            if isinstance(module, official.RMSNorm):
                module.variance_epsilon, module.offset, module.casting_mode = module.eps, 0.0, "llama"
                module.in_place, module.row_mode = True, None
        ops = importlib.import_module("liger_kernel.ops.swiglu")
        official.FeedForward.forward = lambda self, x, mask: self.w2(
            ops.LigerSiLUMulFunction.apply(self.w1(x, mask), self.w3(x, mask)), mask
        )
        fused = liger.LigerFusedLinearCrossEntropyLoss()
        Decoder.forward_loss = lambda self, h, targets: fused(self.output.weight, h.flatten(0, 1), targets.flatten())
        used.append("Liger")
    os.environ["UNSLOTH_IS_PRESENT"] = "1"  # the checkpoints alone are wanted, and not what Unsloth does to transformers
    if offloaded and (unsloth := optional("unsloth_zoo.gradient_checkpointing")):
        official.checkpoint = lambda function, *args, use_reentrant: unsloth.unsloth_offloaded_gradient_checkpoint(
            function, *args
        )
        used.append("Unsloth's checkpoints")
    if bitsandbytes := optional("bitsandbytes"):
        optimizer = bitsandbytes.optim.AdamW8bit
        used.append("bitsandbytes")
        if nf4:
            quantise(decoder, bitsandbytes)
    return optimizer, used


def quantise(decoder, bitsandbytes):
    """The linears' own weights in NF4 with double quantisation; a product reads them back."""
    functional = bitsandbytes.functional
    for layer in decoder.model.layers:
        for module in layer.modules():
            if isinstance(module, official.PLora):
                codes, state = functional.quantize_4bit(module.weight.data, quant_type="nf4", compress_statistics=True)
                module.weight = nn.Parameter(codes, requires_grad=False)
                module.matmul = lambda x, w, state=state: bitsandbytes.matmul_4bit(x, w.t(), quant_state=state)


def missing_kernels(case, used):
    """What stands in the way of measuring a case with the kernels that could be imported; None if nothing does."""
    if not used:
        return "none of Liger, Unsloth and bitsandbytes can be imported"
    if case["base"] == "nf4" and "bitsandbytes" not in used:
        return "bitsandbytes, which NF4 needs, can't be imported"
    if case["placement"] == "offloaded" and "Unsloth's checkpoints" not in used:
        return "Unsloth, which activations on the host need, can't be imported"
    return None


def has_cudnn(device):
    """Whether its convolutions run; PyTorch has some of its own for where they don't, as on a phantom card."""
    try:
        nn.functional.conv2d(torch.zeros(1, 1, 8, 8, device=device), torch.zeros(1, 1, 3, 3, device=device))
        return True
    except RuntimeError:
        return False


def peaks(device):
    if device.startswith("cuda"):
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"peakBytes": allocated, "reservedPeakBytes": reserved}
    return {"peakBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main():
    with open(sys.argv[1]) as file:
        task = json.load(file)
    os.chdir(os.path.dirname(sys.argv[1]))  # Unsloth leaves a folder where it is started
    device, case = task["device"], task["case"]
    on = {"device": device, "dtype": torch.bfloat16}
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.enabled = has_cudnn(device)
        if case.get("capBytes"):
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, case["capBytes"] / total))
    decoder = Decoder(Config(**task["model"], attention="sdpa"), **on)
    vision = Vision(task["vision"], task["model"]["hidden"], **on).requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.02)
    kernels = task["variant"] == "kernels"
    kind, used = torch.optim.AdamW, []
    if kernels:
        kind, used = use_kernels(decoder, nf4=case["base"] == "nf4", offloaded=case["placement"] != "resident")
    model = with_lora(decoder, rank=case["rank"], alpha=case["rank"])
    parameters = trainable(model)
    optimizer = adamw(parameters, 5e-5, kind)
    with safe_open(task["batch"], "pt") as tensors:
        batch = {name: tensors.get_tensor(name) for name in tensors.keys()}
    ids, targets = (batch[name][None].long().to(device) for name in ("ids", "targets"))
    image_rows = tuple(index.to(device) for index in batch["image_mask"][None].bool().nonzero(as_tuple=True))

    if cuda:
        torch.cuda.empty_cache()  # weights that were quantised are no part of a step

    def step():
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        tiles, rows, cols = tiles_of(batch["pixels"], batch["global_view"], **on)
        with torch.no_grad():
            hidden = decoder.model.tok_embeddings(ids)
            hidden[image_rows] = vision(tiles, rows, cols)
        loss = model(hidden, targets, image_rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": loss.item(), **peaks(device)}

    name = f"torch {torch.__version__}, PEFT {version('peft')}" + "".join(f", {name}" for name in used)
    if kernels and (missing := missing_kernels(case, used)):
        answer(name=name, skipped=missing)
        return
    serve(step, {"name": name})


main()
