import { readFileSync } from "node:fs";
import { afterAll, expect, test } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import { loadHdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import { generate, type Prompt } from "../../src/models/generation/generate.ts";
import { disposeLora, loraFromAdapter } from "../../src/models/lora.ts";
import { GREEDY } from "../../src/models/generation/sampling.ts";
import { loadModel } from "../../src/models/weights.ts";
import { dispose, scope } from "../../src/torch/tensor.ts";
import { golden } from "../helpers/shared.ts";

interface GenerateCase {
  name: string;
  /** -100 where the picture is. */
  input_ids: number[];
  image?: string;
  greedy: { ids: number[] };
  "greedy_rep_penalty_1.005": { ids: number[] };
  "greedy_rep_penalty_1.3": { ids: number[] };
  greedy_with_lora_final_adapter: { ids: number[] };
}

const { cases } = JSON.parse(readFileSync(golden("generate/cases.json"), "utf8")) as {
  cases: GenerateCase[];
};
const model = loadModel(golden("tiny"), { dtype: "float32", device: "cpu" });
const lora = scope(() =>
  loraFromAdapter(model.config, readAdapter(golden("train/final_adapter")), {
    device: "cpu",
    gradients: "none",
  }),
);
afterAll(() => {
  disposeLora(lora);
  dispose(model);
});

const variants = [
  { variant: "greedy", repetitionPenalty: 1 },
  { variant: "greedy_rep_penalty_1.005", repetitionPenalty: 1.005 },
  { variant: "greedy_rep_penalty_1.3", repetitionPenalty: 1.3 },
  { variant: "greedy_with_lora_final_adapter", repetitionPenalty: 1, adapter: lora },
] as const;

test.each(cases.flatMap((known) => variants.map((variant) => ({ ...variant, known, name: known.name }))))(
  "$name, $variant: the official 16 ids",
  async ({ known, variant, repetitionPenalty, ...rest }) => {
    const sampling = { ...GREEDY, repetitionPenalty };
    const adapter = "adapter" in rest ? rest.adapter : undefined;
    const options = { sampling, maxNewTokens: 16, stopIds: [] };
    const { ids, finish } = await generate(model, adapter, await promptOf(known), options);
    expect(ids).toEqual(known[variant].ids);
    expect(finish).toBe("length");
  },
);

async function promptOf({ input_ids: ids, image }: GenerateCase): Promise<Prompt> {
  const inputIds = Int32Array.from(ids, (id) => Math.max(id, 0));
  if (!image) return { inputIds, imageSlices: [], images: [] };
  const picture = await loadHdImage(golden(`generate/${image}`), 1, "official");
  const slice = { start: ids.indexOf(-100), end: ids.lastIndexOf(-100) + 1, image: 0 };
  return { inputIds, imageSlices: [slice], images: [picture] };
}
