"""Makes the checkpoint, adapter and cases of this folder: InternVL3.5 (a decoder of Qwen3) with the tower of the 38B.

Run once with transformers 5.23.0, torch 2.11.0, peft 0.21.2 and Pillow, on a CPU with one thread: python make.py.
Texts, labels and pictures are those of ../internvl_hf/cases; sizes and weights are random.
"""
import json
import re
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import InternVLConfig, InternVLForConditionalGeneration

HERE = Path(__file__).parent
SOURCE = HERE.parent / "internvl_hf"
CASES = ("c2_img_one_tile", "c3_two_images", "c5_batch2")
TILE = 112
GIVEN = ("input_ids", "attention_mask", "labels", "position_ids", "label_rows", "label_positions")
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def config():
    values = json.loads((SOURCE / "tiny/config.json").read_text())
    text, vision = values.pop("text_config"), values.pop("vision_config")
    for key in ("architectures", "model_type", "torch_dtype", "transformers_version"):
        values.pop(key)
    for key in ("architectures", "rope_scaling", "max_window_layers", "sliding_window", "use_sliding_window"):
        text.pop(key)
    text.update(model_type="qwen3", architectures=["Qwen3ForCausalLM"], attention_bias=False)
    text.update(hidden_size=64, intermediate_size=112, num_hidden_layers=3, max_position_embeddings=40960)
    text.update(num_attention_heads=4, num_key_value_heads=2, head_dim=24)
    vision.update(norm_type="rms_norm", use_qk_norm=True, attention_bias=False)
    vision.update(hidden_size=48, intermediate_size=72, num_attention_heads=3, num_hidden_layers=3)
    return InternVLConfig(text_config=text, vision_config=vision, **values)


@torch.no_grad()
def randomize(model):
    torch.manual_seed(35)
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight)
        if re.search(r"norm.*\.weight$|lambda_\d$", name):
            weight.copy_(1 + 0.15 * noise)
        elif name.endswith("bias"):
            weight.copy_(0.1 * noise)
        elif "embed_tokens" in name:
            weight.copy_(0.5 * noise)
        elif "cls_token" in name or "position_embeddings" in name:
            weight.copy_(0.3 * noise)
        else:
            weight.copy_(noise / weight[0].numel() ** 0.5)


def pixels(images):
    """Scales, cuts and normalises as the fast processor does."""
    mean = torch.tensor([0.485, 0.456, 0.406]).mul(255).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).mul(255).view(3, 1, 1)
    tiles = []
    for image in images:
        picture = Image.open(SOURCE / "cases" / image["file"]).convert("RGB")
        whole = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        columns, rows = image["columns"], image["rows"]
        canvas = scaled(whole, rows, columns)
        for row in range(rows):
            for column in range(columns):
                tiles.append(canvas[:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE])
        if rows * columns > 1:
            tiles.append(scaled(whole, 1, 1))
    return torch.stack([(tile.float() - mean) / std for tile in tiles])


def scaled(whole, rows, columns):
    size = (rows * TILE, columns * TILE)
    return torch.nn.functional.interpolate(whole, size, mode="bicubic", antialias=True)[0]


def run(model, case, images, seen=None):
    """Returns loss and logits at the labels; seen: gets the states of every layer."""
    inner = (model.base_model.model if hasattr(model, "peft_config") else model).model
    hooks = []

    def watch(module, name):
        def note(_, __, out):
            seen[name] = (out[0] if isinstance(out, tuple) else out).detach()

        hooks.append(module.register_forward_hook(note))

    if seen is not None:
        for index, layer in enumerate(inner.language_model.layers):
            watch(layer, f"layer_out.{index}")
        for index, layer in enumerate(inner.vision_tower.encoder.layer):
            watch(layer, f"vision.layer.{index}")
        watch(inner.multi_modal_projector, "image_embeds")
    positions = case["position_ids"] if len(case["input_ids"]) == 1 else None
    out = model(
        input_ids=case["input_ids"],
        attention_mask=case["attention_mask"],
        pixel_values=pixels(images),
        position_ids=positions,
        use_cache=False,
    )
    for hook in hooks:
        hook.remove()
    rows, at = case["label_rows"], case["label_positions"]
    logits = out.logits[rows, at]
    return torch.nn.functional.cross_entropy(logits, case["labels"][rows, at + 1]), logits


def main():
    torch.set_num_threads(1)
    model = InternVLForConditionalGeneration(config()).float().eval()
    model.set_attn_implementation("eager")
    randomize(model)
    model.save_pretrained(HERE / "tiny")
    known = {one["name"]: one for one in json.loads((SOURCE / "cases/manifest.json").read_text())["cases"]}
    cases = []
    for name in CASES:
        case, images, seen = load_file(SOURCE / f"cases/{name}.safetensors"), known[name]["images"], {}
        with torch.no_grad():
            loss, logits = run(model, case, images, seen)
        kept = {key: case[key] for key in GIVEN}
        if name != CASES[0]:  # every layer of the tower once
            seen = {key: state for key, state in seen.items() if key not in ("vision.layer.0", "vision.layer.1")}
        save_file({**kept, **seen, "logits_label": logits}, HERE / f"cases/{name}.safetensors")
        files = [{"file": image["file"], "tokens": image["tokens"]} for image in images]
        cases.append({"name": name, "lengths": known[name]["lengths"], "images": files, "loss": loss.item()})
    torch.manual_seed(36)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora).eval()
    factors = {name: weight for name, weight in adapted.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, weight in factors.items():
            weight.copy_(torch.randn_like(weight) * (0.2 if "lora_A" in name else 0.1))
    adapted.save_pretrained(HERE / "tiny_lora")
    for entry in cases:
        name = entry["name"]
        adapted.zero_grad()
        loss, logits = run(adapted, load_file(SOURCE / f"cases/{name}.safetensors"), known[name]["images"])
        loss.backward()
        grads = {f"grad.{key.replace('.default', '')}": weight.grad for key, weight in factors.items()}
        norm = sum((grad**2).sum() for grad in grads.values()).sqrt()
        entry["lora"] = {"loss": loss.item(), "grad_norm": norm.item()}
        save_file({**grads, "logits_label": logits.detach()}, HERE / f"cases/{name}.lora.safetensors")
    manifest = {"made_with": "transformers 5.23.0, torch 2.11.0, peft 0.21.2", "cases": cases}
    (HERE / "cases/manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


main()
