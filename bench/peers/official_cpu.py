"""The official way on the CPU, beside lorafit in one run of bench/cpu.ts or bench/ranks.ts: official_cpu.py TASK [RANK COUNT PORT].

TASK: a file of JSON. With several ranks the model is in DistributedDataParallel, over Gloo.
"""

import contextlib
import json
import sys

import torch
from safetensors import safe_open
from worker import reset_peak, serve, status_bytes, trim

from official import Config, Decoder, adamw, trainable, with_lora


def load_weights(module, files, rename=lambda name: name):
    """Copies tensors of these files into the parameters of their names; every parameter must be found."""
    parameters = dict(module.named_parameters())
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                parameter = parameters.pop(rename(name), None)
                if parameter is not None:
                    parameter.data.copy_(tensors.get_tensor(name))
    return list(parameters)


def main():
    with open(sys.argv[1]) as file:
        task = json.load(file)
    torch.set_num_threads(task["threads"])
    decoder = Decoder(Config(**task["model"]), dtype=torch.bfloat16)
    missing = load_weights(decoder, task["weights"])
    if missing:
        raise SystemExit(f"the checkpoint lacks {missing}")
    with safe_open(task["batch"], "pt") as tensors:
        embeddings, targets, image_mask = (tensors.get_tensor(name) for name in ("embeddings", "targets", "image_mask"))
    trim()
    base = status_bytes("VmRSS")
    model = with_lora(decoder, rank=task["rank"], alpha=task["alpha"])
    untouched = load_weights(model, [task["adapter"]], lambda name: name.replace(".weight", ".default.weight"))
    if any(".lora_" in name for name in untouched):
        raise SystemExit("the adapter lacks factors")
    parameters = trainable(model)
    optimizer = adamw(parameters, task["learningRate"])
    inputs = (embeddings[None], targets[None].long(), image_mask[None].bool())

    rank, count, port = (int(text) for text in sys.argv[2:]) if len(sys.argv) > 2 else (0, 1, 0)
    computing = model
    if count > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
        computing = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    own = range(rank, task.get("microBatches", 1), count)

    def step():
        reset_peak()
        for done in own:
            waits = count > 1 and done != own[-1]
            with computing.no_sync() if waits else contextlib.nullcontext():
                loss = computing(inputs[0].clone(), *inputs[1:])
                (loss / len(own)).backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.item(), "gradientNorm": norm.item(), "peakRssBytes": status_bytes("VmHWM") - base}

    serve(step, {"name": f"torch {torch.__version__}, PEFT, {task['model']['attention']} attention"})


main()
