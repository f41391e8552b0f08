/** Computes the model's inner values for one micro-batch, layer by layer, without the step's policies. */

import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { attentionForward_, mlpForward_ } from "../../src/models/decoder.ts";
import { addDeepstack_, type Deepstack, emptyDeepstack, featuresOf } from "../../src/models/deepstack.ts";
import { familyOf, positionsOf } from "../../src/models/families.ts";
import { embedText, placeImage_ } from "../../src/models/inputRows.ts";
import { joinLayer } from "../../src/models/join.ts";
import type { Lora } from "../../src/models/lora.ts";
import type { Model } from "../../src/models/weights.ts";
import { ropeTables } from "../../src/nn/attention/rope.ts";
import { frozenValues } from "../../src/nn/frozen/frozen.ts";
import { rmsNorm } from "../../src/nn/norm.ts";
import { rowsOf } from "../../src/nn/rows.ts";
import { sampleRows } from "../../src/step/ownRows.ts";
import { fromArray } from "../../src/torch/create.ts";
import type { Tensor } from "../../src/torch/tensor.ts";
import { runToEnd } from "./randomModel.ts";

/** Returns the input of the decoder, (T, C), and the features of pictures for its first layers. */
export function decoderInput(
  model: Model,
  { inputIds, imageSlices, images }: MicroBatch,
): { hidden: Tensor; deepstack: Deepstack | undefined } {
  const hidden = embedText(model, inputIds);
  const deepstack = emptyDeepstack(model, imageSlices);
  for (const [at, { start, end, image }] of imageSlices.entries()) {
    const features = deepstack && featuresOf(deepstack, at);
    const rows = rowsOf(hidden, { start, end });
    runToEnd(placeImage_(rows, model, images[image]!, 4, { deepstack: features }));
  }
  return { hidden, deepstack };
}

/** Returns the hidden states at every point that was recorded from the official code. */
export function trace(model: Model, lora: Lora | undefined, batch: MicroBatch): Map<string, Tensor> {
  const { config, dtype, device } = model;
  const states = new Map<string, Tensor>();
  const { hidden, deepstack } = decoderInput(model, batch);
  states.set("inputs_embeds", hidden.clone());
  const { headDim: D, heads, kvHeads } = config;
  const sequence = {
    rope: ropeTables(positionsOf(config, batch), config, { dtype, device }),
    shape: { Q: heads / kvHeads, D, samples: sampleRows(batch) },
    ploraRows: batch.imageSlices,
    kvHeads,
    qkv: (kvHead: number) => familyOf(config).qkv(config, kvHead),
    headGroups: 1,
    attentionInput: "kept" as const,
    plora: "apart" as const,
    mlpTileTokens: 512,
  };
  for (let index = 0; index < config.layers; index++) {
    const layer = joinLayer(model, lora, index);
    attentionForward_(hidden, layer, sequence);
    mlpForward_(hidden, layer, sequence);
    states.set(`layer_out.${index}`, hidden.clone());
    addDeepstack_(hidden, deepstack, index);
  }
  states.set("final_norm", rmsNorm(hidden, { weight: model.norm, eps: config.rmsEps }));
  return states;
}

/** Returns the logits of these rows, (rows, V), from a trace. */
export function logitsAt(model: Model, states: Map<string, Tensor>, rows: ArrayLike<number>): Tensor {
  const index = fromArray(Int32Array.from(rows), [rows.length], { dtype: "int64" });
  return states.get("final_norm")!.indexSelect(0, index).mm(frozenValues(model.head).t());
}
