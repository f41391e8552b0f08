"""Holds lorafit's adapters to PEFT itself, both ways, on the tiny checkpoint of tests/golden. No test, for it needs Python's torch:

    python3 -m venv /tmp/peft && /tmp/peft/bin/pip install torch==2.11.0 peft==0.10.0 transformers==4.44.2 accelerate==0.34.2
    make build && /tmp/peft/bin/python scripts/checkPeft.py

For each kind of adapter: PEFT writes one; lorafit merges it, and the weights must be those that PEFT merges. Then lorafit trains it on
for two steps, PEFT loads what lorafit wrote, no key may be missing or unknown, and both merge it to the same weights again.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests/golden/tiny"
DATA = ROOT / "tests/golden/tiny_cases/cases.jsonl"
OFFICIAL = ["attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
ATOL = 1e-6

KINDS = {
    "official targets": dict(r=4, lora_alpha=8, target_modules=OFFICIAL),
    "rsLoRA": dict(r=3, lora_alpha=6, target_modules=OFFICIAL, use_rslora=True),
    "a regular expression": dict(r=2, lora_alpha=2, target_modules=r".*layers\.[01]\.attention\.(wqkv|wo)"),
    "ranks and alphas by pattern": dict(
        r=4,
        lora_alpha=8,
        target_modules=OFFICIAL,
        rank_pattern={"attention.wqkv": 2, r"layers\.1\.feed_forward\.w2": 6},
        alpha_pattern={"attention.wo": 3},
    ),
    "adapter_model.bin": dict(r=4, lora_alpha=8, target_modules=["wqkv"]),
}


class Skeleton(torch.nn.Module):
    """The linears of a checkpoint's decoder under their official names, and what PEFT asks of a language model."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        super().__init__()
        for name, weight in weights.items():
            *path, leaf = name.removesuffix(".weight").split(".")
            parent = self
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, torch.nn.Module())
                parent = getattr(parent, part)
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight.data = weight.clone()
            parent.add_module(leaf, linear)

    def prepare_inputs_for_generation(self, *_args, **_kwargs):
        raise NotImplementedError


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(file)
    return weights


def skeleton() -> Skeleton:
    weights = weights_of(MODEL)
    return Skeleton({name: weights[name] for name in weights if name.removesuffix(".weight").endswith(tuple(OFFICIAL))})


def lorafit(*args: object) -> None:
    subprocess.run(["node", str(ROOT / "dist/cli/main.js"), *map(str, args)], check=True, capture_output=True)


def write_with_peft(config: dict, folder: Path, *, safe: bool) -> peft.PeftModel:
    model = peft.get_peft_model(skeleton(), peft.LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **config))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder, safe_serialization=safe)
    return model


def compare_merged(model: peft.PeftModel, adapter: Path, out: Path) -> float:
    """The largest difference between PEFT's and lorafit's merged weights; weights without factors must be the base's."""
    lorafit("merge", "--model", MODEL, "--adapter", adapter, "--output", out)
    expected = weights_of(MODEL) | dict(model.merge_and_unload().state_dict())
    merged = weights_of(out)
    assert merged.keys() == expected.keys()
    return max((merged[name] - weight).abs().max().item() for name, weight in expected.items())


def load_with_peft(adapter: Path) -> peft.PeftModel:
    stored = peft.utils.load_peft_weights(str(adapter), device="cpu")
    config = peft.PeftConfig.from_pretrained(adapter)
    result = peft.set_peft_model_state_dict(peft.get_peft_model(skeleton(), config), dict(stored))
    assert not result.unexpected_keys, f"unknown to PEFT: {result.unexpected_keys}"
    missing = [key for key in result.missing_keys if "lora_" in key]
    assert not missing, f"missing for PEFT: {missing}"
    model = peft.PeftModel.from_pretrained(skeleton(), adapter)
    own = peft.get_peft_model_state_dict(model)
    for key, factor in stored.items():
        assert torch.equal(own[key], factor), key
    return model


def main() -> None:
    torch.manual_seed(0)
    print(f"peft {peft.__version__}, torch {torch.__version__}; largest difference of merged weights (at most {ATOL})")
    for kind, config in KINDS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            theirs = write_with_peft(config, folder / "theirs", safe=kind != "adapter_model.bin")
            first = compare_merged(theirs, folder / "theirs", folder / "merged-theirs")
            lorafit(
                *("train", "--model", MODEL, "--data", DATA, "--adapter", folder / "theirs", "--output", folder / "run"),
                *("--max-steps", 2, "--gradient-accumulation", 1, "--learning-rate", 1e-3, "--image-compat", "official"),
            )
            ours = folder / "run/adapter"
            second = compare_merged(load_with_peft(ours), ours, folder / "merged-ours")
            keys = json.loads((folder / "theirs/adapter_config.json").read_text()).keys()
            lacking = keys - json.loads((ours / "adapter_config.json").read_text()).keys()
            print(f"{kind}: written by PEFT {first:.1e}, by lorafit {second:.1e}; keys that ours lacks: {sorted(lacking)}")
            if max(first, second) > ATOL:
                sys.exit(f"{kind}: too far apart")


if __name__ == "__main__":
    main()
