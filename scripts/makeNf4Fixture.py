"""Writes tests/golden/nf4/matrices.safetensors: matrices and what bitsandbytes makes of them in NF4 with double quantisation; and
tests/golden/nf4/forms.safetensors: one matrix in the other forms of NF4 that it writes, and its dequantisation of each.

Needs torch 2.11, bitsandbytes (0.50.2 made the files that are kept) and safetensors; no GPU.  Usage: makeNf4Fixture.py FOLDER

For each case NAME there are, in the layout of pre-quantised checkpoints, NAME.weight, NAME.weight.absmax, .quant_map, .nested_absmax,
.nested_quant_map and .quant_state.bitsandbytes__nf4; beside them the source NAME.source, bitsandbytes' own dequantisation
NAME.values, and NAME.cpu_absmax. The absmax codes are those of its reference kernel, which rounds to the nearest code as its CUDA
kernel does; cpu_absmax are those of its CPU library, whose lookup table takes a neighbouring code for a few in a thousand.
"""

import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

REFERENCE = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)


def matrices():
    random = torch.Generator().manual_seed(20)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    yield "plain", (normal(16, 256) * 0.02).bfloat16()
    outliers = normal(24, 192) * 0.03
    outliers[3] = 0
    outliers[5, 64:128] = 0
    outliers[7, 11] = 9.5
    outliers[8, 100] = -40
    outliers[9, :64] = 1e-30
    yield "outliers", outliers
    yield "odd", normal(7, 37)
    yield "last_block_zero", torch.cat([normal(3, 50), torch.zeros(2, 50)])
    yield "many_blocks", (normal(160, 130) * 0.5).half()
    yield "constant", torch.full((4, 128), 0.75)
    yield "zeros", torch.zeros(2, 64)
    ramp = torch.linspace(0.01, 3, 20).repeat(64)[:1216].view(19, 64)
    yield "spread", (ramp * normal(19, 64)).bfloat16()


def reference_absmax(source):
    _, state = F.quantize_4bit(source, blocksize=64, quant_type="nf4")
    centred = state.absmax - state.absmax.mean()
    code = F.create_dynamic_map()
    kernel = torch.ops.bitsandbytes.quantize_blockwise.default
    return kernel.redispatch(REFERENCE, centred, code, 256)


def forms():
    """(name, blocks of so many numbers, double quantisation, dtype that the codes lie in)"""
    yield "blocks of 128", 128, True, torch.uint8
    yield "blocks of 4096", 4096, True, torch.uint8
    yield "absmax in full", 64, False, torch.uint8
    yield "blocks of 256, absmax in full", 256, False, torch.uint8
    yield "codes in bfloat16", 64, True, torch.bfloat16


def write_forms(output):
    source = (torch.randn(130, 130, generator=torch.Generator().manual_seed(21)) * 0.5).half()
    tensors = {}
    for name, block, double, storage in forms():
        options = dict(blocksize=block, compress_statistics=double, quant_type="nf4", quant_storage=storage)
        packed, state = F.quantize_4bit(source, **options)
        tensors[f"{name}.values"] = F.dequantize_4bit(packed, state)
        tensors[f"{name}.weight"] = packed
        for key, value in state.as_dict(packed=True).items():
            tensors[f"{name}.weight.{key}"] = value
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, output)


def write_matrices(output):
    tensors = {}
    for name, source in matrices():
        packed, state = F.quantize_4bit(source, blocksize=64, compress_statistics=True, quant_type="nf4")
        tensors[f"{name}.source"] = source
        tensors[f"{name}.cpu_absmax"] = state.absmax
        state.absmax, state.state2.absmax = reference_absmax(source)
        tensors[f"{name}.values"] = F.dequantize_4bit(packed, state)
        tensors[f"{name}.weight"] = packed
        for key, value in state.as_dict(packed=True).items():
            tensors[f"{name}.weight.{key}"] = value
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, output)


write_matrices(f"{sys.argv[1]}/matrices.safetensors")
write_forms(f"{sys.argv[1]}/forms.safetensors")
