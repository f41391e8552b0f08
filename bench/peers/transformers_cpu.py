"""A family that transformers has, on the CPU beside lorafit in one run of bench/cpu.ts: transformers_cpu.py TASK.

TASK: a file of JSON. The model is transformers' own, with PEFT's LoRA on the decoder and a checkpoint of activations for each layer.
The rows of pictures come ready, so that no side but lorafit's runs a vision tower.
"""

import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForImageTextToText
from worker import reset_peak, serve, status_bytes, trim

from official import adamw, trainable

TARGETS = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def load_adapter(model, file):
    """Copies factors into the parameters that PEFT names after the same modules; every factor must be found."""
    parameters = {name.replace(".default.", "."): parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():
            parameters.pop(name).data.copy_(tensors.get_tensor(name))
    if parameters:
        raise SystemExit(f"the adapter lacks {list(parameters)}")


def main():
    with open(sys.argv[1]) as file:
        task = json.load(file)
    torch.set_num_threads(task["threads"])
    attention = task["model"]["attention"]
    model = AutoModelForImageTextToText.from_pretrained(task["checkpoint"], dtype=torch.bfloat16, attn_implementation=attention)
    with safe_open(task["batch"], "pt") as tensors:
        embeddings, targets, positions = (tensors.get_tensor(name) for name in ("embeddings", "targets", "positions"))
    labels = torch.cat((targets.new_full((1,), -100), targets[:-1]))[None].long()
    positions = positions[:, None].long() if positions.shape[0] > 1 else positions.long()
    trim()
    base = status_bytes("VmRSS")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    config = LoraConfig(r=task["rank"], lora_alpha=task["alpha"], lora_dropout=0.0, target_modules=TARGETS)
    model = get_peft_model(model, config)
    load_adapter(model, task["adapter"])
    model.train()
    parameters = trainable(model)
    optimizer = adamw(parameters, task["learningRate"])

    def step():
        reset_peak()
        # A checkpoint of a layer over frozen weights has a gradient only if its input has one.
        inputs = embeddings[None].clone().requires_grad_()
        loss = model(inputs_embeds=inputs, position_ids=positions, labels=labels, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.item(), "gradientNorm": norm.item(), "peakRssBytes": status_bytes("VmHWM") - base}

    import transformers

    serve(step, {"name": f"transformers {transformers.__version__}, PEFT, {attention}"})


main()
