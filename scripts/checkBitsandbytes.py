"""Holds lorafit's NF4 and int8 checkpoints to transformers and bitsandbytes, both ways, on the tiny checkpoint of tests/golden. No test, for
it needs Python's torch:

    python3 -m venv /tmp/bnb && /tmp/bnb/bin/pip install torch==2.11.0 transformers==5.23.0 bitsandbytes==0.50.2 accelerate==1.15.0
    make build && /tmp/bnb/bin/python scripts/checkBitsandbytes.py

Written by lorafit: transformers' own loader of pre-quantised checkpoints takes the folder by its config.json; no tensor may be missing or
unknown, each linear of the decoder must be bitsandbytes', and hold what bitsandbytes makes of the full matrix. Written by transformers, with
and without double quantisation, in blocks of several sizes and other storage: lorafit's loss must be that of its own checkpoint.

The model is a frame with the official names but without PLoRA, which the official code makes a subclass of Linear with linears below it:
transformers 5 leaves such a one as it is, and transformers 4 replaces it with all that is below it by bitsandbytes' linear. So it is the
linears that are held together here; the official model class can't be loaded in 8 or 4 bits.
"""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import bitsandbytes as bnb
import torch
import transformers
from bitsandbytes.functional import QuantState, dequantize_4bit, dequantize_blockwise, int8_vectorwise_dequant, quantize_4bit
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests/golden/tiny"
DATA = ROOT / "tests/golden/tiny_cases/cases.jsonl"
LINEARS = ("attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
KEPT = ["vit", "vision_proj", "output", "Plora_A", "Plora_B"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(file)
    return weights


FULL = weights_of(MODEL)
PLORA = {name: tensor for name, tensor in FULL.items() if "Plora" in name}
# weights before biases, so that a linear is made whole
FRAME = {name: FULL[name] for name in sorted(FULL, key=lambda name: name.endswith("bias")) if name not in PLORA}


class Config(PreTrainedConfig):
    model_type = "internlmxcomposer2"


class Frame(PreTrainedModel):
    """Every tensor of the checkpoint under its official name; matrices with two dims are those of linears."""

    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        for name, tensor in FRAME.items():
            *path, leaf = name.split(".")
            is_linear = leaf == "weight" and tensor.dim() == 2 and "embedding" not in name
            owner = self
            for depth, part in enumerate(path):
                if not hasattr(owner, part):
                    has_linear = is_linear and depth == len(path) - 1
                    bias = f"{'.'.join(path)}.bias" in FRAME
                    made = torch.nn.Linear(*reversed(tensor.shape), bias=bias) if has_linear else torch.nn.Module()
                    owner.add_module(part, made)
                owner = getattr(owner, part)
            if not is_linear and getattr(owner, leaf, None) is None:
                owner.register_parameter(leaf, torch.nn.Parameter(torch.empty_like(tensor)))
        self.post_init()

    def _init_weights(self, module):
        pass


def lorafit(*args: object) -> list[dict]:
    command = ["node", str(ROOT / "dist/cli/main.js"), *map(str, args), "--json"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in shown.splitlines()]


def loss_of(folder: Path) -> float:
    return lorafit("eval", "--model", folder, "--data", DATA)[-1]["loss"]


def check_ours(base: str, folder: Path) -> None:
    lorafit("quantize", "--model", MODEL, "--output", folder, "--base", base)
    model, info = Frame.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert set(info.pop("unexpected_keys")) == set(PLORA)
    assert not any(info.values()), info
    modules = dict(model.named_modules())
    worst = 0.0
    for name, full in FRAME.items():
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or not path.endswith(LINEARS):
            assert torch.equal(model.get_parameter(name), full), name
            continue
        module = modules[path]
        if base == "nf4":
            assert type(module) is bnb.nn.Linear4bit, (path, type(module))
            packed, state = quantize_4bit(full, blocksize=64, compress_statistics=True, quant_type="nf4")
            assert torch.equal(packed, module.weight.data), name
            found, wanted = values_of(module.weight.data, module.weight.quant_state), values_of(packed, state)
        else:
            assert type(module) is bnb.nn.Linear8bitLt, (path, type(module))
            found, wanted = int8_vectorwise_dequant(module.weight.data, module.weight.SCB), full
        if full.shape[1] % 64 == 0:  # bitsandbytes' product on the CPU fails with other widths
            x = torch.randn(3, full.shape[1])
            assert ((module(x) - x @ found.T).norm() / (x @ found.T).norm()).item() < 0.02, name
        worst = max(worst, ((found - wanted).norm() / wanted.norm()).item())
    print(f"{base}, written by lorafit: {len(FRAME)} tensors loaded; largest relative difference {worst:.1e}")
    # bitsandbytes' CPU library takes a neighbouring code for a few absmax in a thousand; int8 is compared with the full matrix
    if worst > 0.01:
        sys.exit(f"{base}: too far apart")


def check_theirs(kind: str, config: BitsAndBytesConfig, folder: Path, wanted: float, tolerance: float) -> None:
    model = Frame.from_pretrained(MODEL, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(load_file(file) | PLORA, file)
    finish(kind, folder, wanted, tolerance)


def check_blocks(size: int, double: bool, folder: Path) -> None:
    """Other blocks than of 64, for which transformers has no option; beside a full checkpoint of what bitsandbytes makes of them."""
    stored, full = dict(FULL), dict(FULL)
    for name in FULL:
        if name.removesuffix(".weight").endswith(LINEARS):
            packed, state = quantize_4bit(FULL[name], blocksize=size, compress_statistics=double, quant_type="nf4")
            stored |= {name: packed} | {f"{name}.{key}": part for key, part in state.as_dict(packed=True).items()}
            full[name] = values_of(packed, state)
    for each, tensors in (folder, stored), (folder.with_suffix(".full"), full):
        each.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, each / "model.safetensors")
        add_configs(each)
    kind = f"blocks of {size}{'' if double else ' without double quantisation'}"
    finish(kind, folder, loss_of(folder.with_suffix(".full")), 1e-4 if double else 3e-3)  # absmax are rounded


def values_of(packed: torch.Tensor, state: QuantState) -> torch.Tensor:
    """What codes stand for; bitsandbytes' own function on the CPU is wrong in float32 for widths that are no whole number of blocks."""
    absmax = dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
    codes = torch.stack([packed.view(-1) >> 4, packed.view(-1) & 15], dim=1).view(-1).long()
    values = (state.code[codes] * absmax.repeat_interleave(state.blocksize)[: codes.numel()]).view(state.shape)
    assert state.shape[1] % state.blocksize or torch.equal(values, dequantize_4bit(packed, state))
    return values


def add_configs(folder: Path) -> None:
    for file in ("config.json", "plora.json", "vision_config.json"):
        if not (folder / file).exists():
            shutil.copy(MODEL / file, folder / file)


def finish(kind: str, folder: Path, wanted: float, tolerance: float) -> None:
    add_configs(folder)
    loss = loss_of(folder)
    print(f"{kind}, written by bitsandbytes: loss {loss:.5f}, wanted {wanted:.5f}")
    if abs(loss - wanted) > tolerance:
        sys.exit(f"{kind}: too far apart")


def main() -> None:
    torch.manual_seed(0)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, bitsandbytes {bnb.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for base in ("nf4", "int8"):
            check_ours(base, folder / base)
        nf4, int8 = loss_of(folder / "nf4"), loss_of(folder / "int8")
        four = dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=KEPT)
        check_theirs("NF4", BitsAndBytesConfig(**four, bnb_4bit_use_double_quant=True), folder / "a", nf4, 1e-3)
        check_theirs("NF4 without double quantisation", BitsAndBytesConfig(**four), folder / "b", nf4, 1e-3)
        stored = BitsAndBytesConfig(**four, bnb_4bit_quant_storage=torch.bfloat16)
        check_theirs("NF4 stored as bfloat16", stored, folder / "c", nf4, 1e-3)
        eight = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT)
        check_theirs("int8", eight, folder / "d", int8, 4e-3)  # it rounds the matrix to float16 first
        for size in (64, 128, 4096):
            for double in (True, False):
                check_blocks(size, double, folder / f"{size}-{double}")


if __name__ == "__main__":
    main()
