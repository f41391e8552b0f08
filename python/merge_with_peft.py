"""Merges an adapter into a checkpoint with PEFT, layer by layer, for `lorafit verify`.

usage: merge_with_peft.py MODEL ADAPTER MERGED OUT

MODEL is the base checkpoint, MERGED the one that lorafit has merged. OUT becomes a copy of MERGED in which
PEFT has merged each adapted linear anew. Prints one JSON object: the version of PEFT, and for each linear how
many of its weights differ from MERGED and by how much at most.
"""

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import peft
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

PREFIX = "base_model.model."


def weight_readers(folder):
    """Returns a function for each tensor of a checkpoint that reads it."""
    readers = {}
    for path in sorted(folder.glob("*.safetensors")):
        shard = safe_open(path, framework="pt")
        readers.update({name: (lambda shard=shard, name=name: shard.get_tensor(name)) for name in shard.keys()})
    if readers:
        return readers
    for path in sorted(folder.glob("*.bin")):
        shard = torch.load(path, mmap=True, weights_only=True)
        readers.update({name: (lambda tensor=tensor: tensor) for name, tensor in shard.items()})
    return readers


def adapter_tensors(folder):
    """Returns the factors by their names in the model, without PEFT's prefix."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path) if path.exists() else torch.load(folder / "adapter_model.bin", weights_only=True)
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def skeleton(weights):
    """Builds nested modules that have linears of these weights at the names' places."""
    root = torch.nn.Module()
    for name, weight in weights.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype, device="meta")
        linear.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
        place.add_module(last, linear)
    return root


def merged_weights(config, weights, factors):
    """Lets PEFT merge the factors into the weights of a few linears."""
    model = inject_adapter_in_model(config, skeleton(weights))
    result = set_peft_model_state_dict(model, factors)
    if result.unexpected_keys:
        raise SystemExit(f"PEFT found no place for {result.unexpected_keys[:3]}")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    missing = sorted(set(weights) - set(layers))
    if missing:
        raise SystemExit(f"PEFT adapts no linear called {missing[:3]}")
    for layer in layers.values():
        layer.merge()
    return {name: layer.get_base_layer().weight.data for name, layer in layers.items()}


def by_layer(factors):
    """Groups the adapted linears, so that one layer's weights are in memory at a time."""
    groups = defaultdict(lambda: defaultdict(dict))
    for name, tensor in factors.items():
        module = name.split(".lora_")[0]
        group = ".".join(module.split(".")[:-2])
        groups[group][module][name] = tensor
    return groups


def merge(model, adapter, merged, out):
    base, ours = weight_readers(model), weight_readers(merged)
    config = LoraConfig.from_pretrained(adapter)
    config.inference_mode = True
    theirs, differences = {}, []
    for modules in by_layer(adapter_tensors(adapter)).values():
        weights = {name: base[f"{name}.weight"]() for name in modules}
        factors = {name: tensor for named in modules.values() for name, tensor in named.items()}
        for name, weight in merged_weights(config, weights, factors).items():
            key = f"{name}.weight"
            mine = ours[key]()
            theirs[key] = weight.to(mine.dtype).contiguous()
            apart = (theirs[key].double() - mine.double()).abs()
            differences.append(
                {
                    "linear": name,
                    "differing": int((apart > 0).sum()),
                    "weights": apart.numel(),
                    "largest": float(apart.max()),
                    "largestWeight": float(mine.double().abs().max()),
                }
            )
    out.mkdir(parents=True, exist_ok=True)
    for path in merged.iterdir():
        if path.suffix == ".safetensors":
            save_file({n: theirs.get(n, t) for n, t in load_file(path).items()}, out / path.name, {"format": "pt"})
        elif path.is_file():
            shutil.copy(path, out / path.name)
    return {"peft": peft.__version__, "torch": torch.__version__, "linears": differences}


if __name__ == "__main__":
    print(json.dumps(merge(*map(Path, sys.argv[1:5]))))
