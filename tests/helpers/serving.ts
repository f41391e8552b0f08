/** An engine over a small random model, and the answers that `generate` gives to the same requests. */

import sharp from "sharp";
import { DEFAULT_RULES } from "../../src/data/pictures/forms.ts";
import { openImagePool } from "../../src/data/pictures/imagePool.ts";
import { encodePrompt } from "../../src/data/samples/dialogue.ts";
import { IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import { layoutBatch } from "../../src/data/stream/batches.ts";
import { pictureFormOf } from "../../src/models/families.ts";
import { generate } from "../../src/models/generation/generate.ts";
import { GREEDY } from "../../src/models/generation/sampling.ts";
import type { Lora } from "../../src/models/lora.ts";
import type { Model } from "../../src/models/weights.ts";
import { servedForm } from "../../src/serving/adapters.ts";
import { createEngine, type EngineParts } from "../../src/serving/engine.ts";
import { SERVING_WAYS, type ServingShape, type ServingWay } from "../../src/serving/planServing.ts";
import type { Engine, ServeEvent, ServeRequest } from "../../src/serving/types.ts";
import { lcg } from "./randomModel.ts";

export interface EngineCase {
  model: Model;
  loras?: Readonly<Record<string, Lora>>;
  shape?: Partial<ServingShape>;
  way?: Partial<ServingWay>;
  parts?: Partial<EngineParts>;
}

export const pictures = openImagePool({ rules: DEFAULT_RULES, compat: "lorafit", workers: 0 });

/** Opens an engine over a model that stays the caller's. */
export function engineOver({ model, loras = {}, shape, way, parts }: EngineCase): Engine {
  const adapters = Object.entries(loras).map(([name, lora]) => ({
    name,
    folder: name,
    served: servedForm(lora, model, (factor) => factor.to({ dtype: model.dtype, copy: true })),
  }));
  return createEngine({
    model,
    tokenizer: undefined,
    loader: pictures,
    imageCompat: "lorafit",
    pictureLimit: pictureFormOf(model.config).limit.default,
    way: { ...SERVING_WAYS[0]!, places: model.places, chunkTokens: 64, ...way },
    shape: { maxSequences: 8, maxTokens: 1024, kvTokens: 4096, maxAdapters: 4, ...shape },
    plannedPeakBytes: 0,
    adapters,
    adapterBytes: Number.POSITIVE_INFINITY,
    baseName: "base",
    maxWaiting: 1000,
    onClosed: () => {},
    ...parts,
  });
}

/** Returns a picture of one tile at hd_num 1, as a data URI. */
export async function randomPicture(seed: number, width = 40, height = 40): Promise<string> {
  const random = lcg(seed);
  const data = Buffer.from(Array.from({ length: width * height * 3 }, () => Math.floor(random() * 256)));
  const png = await sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
  return `data:image/png;base64,${png.toString("base64")}`;
}

/** Returns a request of ids: a picture for each data URI, then text. drawSeed: the seed of sampling. */
export function requestOf(
  vocab: number,
  {
    tokens,
    images = [],
    seed = 1,
    drawSeed = 0,
    ...rest
  }: { tokens: number; images?: string[]; seed?: number; drawSeed?: number } & Partial<
    Omit<ServeRequest, "prompt" | "seed">
  >,
): ServeRequest {
  const random = lcg(seed);
  const text = Array.from({ length: tokens }, () => Math.floor(random() * vocab));
  const inputIds = Int32Array.of(1, ...images.map(() => IMAGE_SLOT), ...text);
  const usual = { limits: { hd_num: 1 }, maxNewTokens: 12, ignoreEos: true, seed: drawSeed };
  return { prompt: { inputIds, images }, ...usual, ...rest };
}

/** Returns the ids that `generate` answers with. */
export async function generated(
  model: Model,
  lora: Lora | undefined,
  request: ServeRequest,
): Promise<number[]> {
  const { prompt, limits: { hd_num: hdNum = 16 } = {}, maxNewTokens = 512, ...sampling } = request;
  if (!("inputIds" in prompt)) throw new Error("a prompt of ids is needed");
  const source = { file: "test", index: 0 };
  const sample = encodePrompt(
    {
      kind: "tokens",
      source,
      inputIds: prompt.inputIds,
      labels: undefined,
      images: [...(prompt.images ?? [])],
    },
    undefined,
    hdNum,
  );
  const images = await Promise.all(sample.images.map(({ path }) => pictures.load(path, hdNum)));
  const { ids } = await generate(model, lora, layoutBatch([{ sample, images }]), {
    sampling: { ...GREEDY, ...sampling },
    maxNewTokens,
    stopIds: request.ignoreEos ? [] : model.config.eosIds,
  });
  return ids;
}

export interface Answered {
  ids: number[];
  text: string;
  last: ServeEvent;
}

/** Submits a request and reads its answer to the end. */
export async function answered(
  engine: Engine,
  request: ServeRequest,
  signal?: AbortSignal,
): Promise<Answered> {
  const { accepted, refusal } = await engine.submit(request, signal);
  if (refusal) throw refusal.error;
  const ids: number[] = [];
  let text = "";
  let last: ServeEvent | undefined;
  for await (const event of accepted.events) {
    last = event;
    if (event.kind !== "piece") continue;
    ids.push(...event.ids);
    text += event.text;
  }
  return { ids, text, last: last! };
}
