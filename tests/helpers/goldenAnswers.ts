/** Tests that a family answers with the official ids, alone and in a server beside others. */
import { readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import { openImagePool } from "../../src/data/pictures/imagePool.ts";
import { layoutBatch } from "../../src/data/stream/batches.ts";
import { pictureRulesOf } from "../../src/models/families.ts";
import { generate, type Prompt } from "../../src/models/generation/generate.ts";
import { GREEDY } from "../../src/models/generation/sampling.ts";
import { disposeLora, loraFromAdapter } from "../../src/models/lora.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { scope } from "../../src/torch/tensor.ts";
import { goldenFamily, withSlots } from "./goldenFamily.ts";
import { answered, engineOver } from "./serving.ts";
import { golden } from "./shared.ts";

interface GenerateCase {
  name: string;
  input_ids: number[];
  images: { file: string }[];
  greedy: { ids: number[] };
  "greedy_rep_penalty_1.3": { ids: number[] };
  greedy_with_final_adapter: { ids: number[] };
}

/** Describes the answers of a family, whose data are in a folder; image: the id of tokens of pictures. */
export function describeGoldenAnswers(folder: string, image: number): void {
  const family = goldenFamily(folder, image);
  const { cases } = JSON.parse(readFileSync(golden(`${folder}/generate/cases.json`), "utf8")) as {
    cases: GenerateCase[];
  };
  const model = loadModel(golden(`${folder}/tiny`), { dtype: "float32", device: "cpu" });
  const lora = scope(() =>
    loraFromAdapter(model.config, readAdapter(golden(`${folder}/train/final_adapter`)), {
      device: "cpu",
      gradients: "none",
    }),
  );
  afterAll(() => {
    disposeLora(lora);
    disposeModel(model);
  });

  const VARIANTS = {
    greedy: { repetitionPenalty: 1, adapter: undefined },
    "greedy_rep_penalty_1.3": { repetitionPenalty: 1.3, adapter: undefined },
    greedy_with_final_adapter: { repetitionPenalty: 1, adapter: lora },
  } as const;

  /** Returns a prompt with its pictures laid out. */
  async function promptOf({ name, input_ids, images }: GenerateCase): Promise<Prompt> {
    const pictures = await Promise.all(
      images.map(({ file }) => family.picture(`generate/${file}`, model.config)),
    );
    const { ids, labels } = withSlots(input_ids, input_ids, image);
    const sample = {
      ...{ source: { file: name, index: 0 }, inputIds: ids, labels },
      images: pictures.map(() => ({ path: "", limit: 0 })),
    };
    return layoutBatch([{ sample, images: pictures }]);
  }

  describe.each(cases)("$name", (known) => {
    it.each(Object.keys(VARIANTS) as (keyof typeof VARIANTS)[])(
      "%s: the official 16 ids",
      async (variant) => {
        const { adapter, repetitionPenalty } = VARIANTS[variant];
        const options = { sampling: { ...GREEDY, repetitionPenalty }, maxNewTokens: 16, stopIds: [] };
        const { ids } = await generate(model, adapter, await promptOf(known), options);
        expect(ids).toEqual(known[variant].ids);
      },
    );
  });

  it("answers all of them at once from a server, with and without the adapter", async () => {
    const { config } = model;
    const loader = openImagePool({ rules: pictureRulesOf(config), compat: "official", workers: 0 });
    const engine = engineOver({ model, loras: { lora }, parts: { loader, imageCompat: "official" } });
    const asked = cases.flatMap((known) =>
      (["greedy", "greedy_rep_penalty_1.3", "greedy_with_final_adapter"] as const).map(async (variant) => {
        const { ids } = withSlots(known.input_ids, known.input_ids, image);
        const files = known.images.map(({ file }) => golden(`${folder}/generate/${file}`));
        const answer = await answered(engine, {
          prompt: { inputIds: ids, images: files },
          ...{ maxNewTokens: 16, ignoreEos: true },
          repetitionPenalty: VARIANTS[variant].repetitionPenalty,
          ...(VARIANTS[variant].adapter && { model: "lora" }),
        });
        expect(answer.ids, `${known.name} ${variant}`).toEqual(known[variant].ids);
      }),
    );
    await Promise.all(asked);
    await engine.close();
    await loader.close();
  });
}
