/** The options of `lorafit plan`. What is left out is searched for, or is as `lorafit train` has it. */
import { z } from "zod";
import { BASES, HEAD_BASES } from "../../models/bases.ts";
import { byteAmount, count, group, text } from "../../options.ts";
import { UNKNOWNS, type Unknown } from "../../plan/solvable.ts";
import { loraOptions } from "../../train/options/options.ts";
import { recipe } from "../../train/options/recipes.ts";

const unknowns = ["memory", ...(Object.keys(UNKNOWNS) as Unknown[])] as const;

/** "0" is an amount too: nothing may lie on the host. */
const hostAmount = z.union([z.literal("0").transform(() => 0), byteAmount]);

export const PlanOptions = z.strictObject({
  ...group("Machine", {
    memory: byteAmount.optional().meta({ help: "what the run may take of the card" }),
    gpu: text
      .optional()
      .meta({ help: "a card by name, of which a run uses one; --list-gpus shows them", value: "NAME" }),
    device: z.enum(["cuda", "cpu"]).default("cuda").meta({
      help: "cpu: plan for this machine's CPU, where --memory is a cap; its speed is measured once",
    }),
    host_memory: hostAmount.optional().meta({
      help: "what may lie in the host's memory; 0: nothing; without it as much as is of use",
      value: "AMOUNT",
      takes: "an amount of memory, as 64GiB, or 0",
    }),
    list_gpus: z.boolean().default(false).meta({ help: "show the cards that can be planned for" }),
  }),
  ...group("Training", {
    model: text.default("4khd-7b").meta({
      help: "checkpoint folder, downloaded repository (org/name), or 4khd-7b, which needs no weights",
      value: "FOLDER",
    }),
    hd_num: count.optional().meta({ help: "most tiles of a picture; without it 16" }),
    max_length: count.optional().meta({
      help: "tokens of the longest sample; without it 4096, or what the picture needs",
      alias: ["max_len"],
    }),
    image_share: z.number().min(0).max(1).optional().meta({
      help: "the part of a sample that is picture; without it one picture of the most tokens that hd_num allows",
    }),
    batch_size: count.default(1).meta({ help: "samples of a micro-batch" }),
    gradient_accumulation: count.optional().meta({
      help: "micro-batches of a step, as many as of lorafit train without it; with several, a copy of the gradients is planned",
      alias: ["gradient_accumulation_steps"],
    }),
    recipe,
    lora_r: loraOptions.lora_r,
    base: z
      .enum(BASES)
      .optional()
      .meta({ help: "precision of the decoder's frozen weights; without it as they are stored" }),
    head_base: z.enum(HEAD_BASES).optional().meta({ help: "the same of embeddings and head" }),
    vision_base: z
      .enum(BASES)
      .optional()
      .meta({ help: "the same of the linears of vision tower and projector" }),
    weights: z.enum(["resident", "streamed"]).optional().meta({
      help: "whether the layers' weights stay on the card; without it whatever is faster and fits",
    }),
    policy: text.optional().meta({ help: "plan for this policy alone", value: "FILE" }),
  }),
  ...group("Answer", {
    solve: z.enum(unknowns).optional().meta({ help: "the most of one thing that fits, or the least memory" }),
    compare: z.enum(["official"]).optional().meta({
      help: "also plan the official recipe's schedule, and show what each step saves",
    }),
    html: text.optional().meta({ help: "write a page with charts", value: "FILE" }),
    explain: z.boolean().default(false).meta({ help: "show how the plan comes about, phase by phase" }),
  }),
});

export type PlanOptions = z.output<typeof PlanOptions>;
