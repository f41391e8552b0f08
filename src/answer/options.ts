/**
 * The options of `lorafit plan`. Without an option, its value is searched for, or is the default of `train`.
 */
import { z } from "zod";
import { LIMITS_IN_WORDS, openLimits } from "../data/pictures/limits.ts";
import { BASES, HEAD_BASES } from "../models/precision/bases.ts";
import { byteAmount, count, group, listOfChoices, text } from "../options.ts";
import { UNKNOWNS, type Unknown } from "../plan/solvable.ts";
import { loraOptions, minPixels, USUAL_MAX_LENGTH } from "../train/options/options.ts";
import { recipe } from "../train/options/recipes.ts";

const unknowns = ["memory", ...(Object.keys(UNKNOWNS) as Unknown[])] as const;

/** The choices as options and YAML spell them: max_length. */
const underscored = Object.keys(UNKNOWNS).map((name) => name.replaceAll("-", "_"));

const solve = z.union([
  z.enum(unknowns),
  z.enum(underscored).transform((name) => name.replaceAll("_", "-") as Unknown),
]);

/** "0" is an amount too. */
const amountOrNone = z.union([z.literal("0").transform(() => 0), byteAmount]);

export const PlanOptions = z.strictObject({
  ...group("Machine", {
    memory: byteAmount.optional().meta({
      help: "Device memory limit. On a CPU it is enforced as a hard cap. Default: the card's memory less --margin; on a CPU, this machine's memory",
    }),
    gpu: text.optional().meta({
      help: 'NVIDIA card to plan for, by name: rtx-4090, "A100-SXM4-40GB MIG 3g.20gb". --list-gpus shows all names',
      value: "NAME",
    }),
    device: z.enum(["cuda", "cpu"]).default("cuda").meta({
      help: "cpu: plan for this machine's CPU; its speed is measured once",
    }),
    host_memory: amountOrNone.optional().meta({
      help: "Host memory (RAM) that the run may use beside the device; 0: none. Default: this machine's memory if the card or CPU is here, else 64 GiB",
      value: "AMOUNT",
      takes: "an amount of memory, as 64GiB, or 0",
    }),
    margin: amountOrNone.optional().meta({
      help: "Memory of the --gpu to leave free. Default: 3 % of the card, at least 512 MiB if the card may drive a display",
      value: "AMOUNT",
      takes: "an amount of memory, as 512MiB, or 0",
    }),
    list_gpus: z.boolean().default(false).meta({ help: "Show the cards that can be planned for" }),
  }),
  ...group("Several cards", {
    gpus: count.optional().meta({
      help: "Cards of each machine that train together, each with a process (rank) of its own. Default: 1",
      value: "N",
    }),
    cpu_ranks: count.optional().meta({
      help: "With --device cpu: ranks that share this machine's cores and memory",
      value: "N",
    }),
    nodes: count.default(1).meta({ help: "Machines that train together, each with as many cards" }),
    sequence_parallel: count.default(1).meta({
      help: "Ranks that share the rows of each sample, for samples too long for one card: the number of all ranks. 1: each rank has samples of its own",
    }),
    link: text.optional().meta({
      help: "Link between cards, between machines, or both with a comma: nvlink, pcie4x8, ib400, 10GbE, or a rate such as 12GB/s. Default between cards: NVLink if boards of the card have it, else PCIe, with 8 lanes for GeForce; between machines: 10GbE",
      value: "LINK",
    }),
  }),
  ...group("Training", {
    model: text.default("4khd-7b").meta({
      help: "Model folder, downloaded repository (org/name), or a model that needs no weights, such as 4khd-7b: --list-models shows all names",
      value: "FOLDER",
    }),
    list_models: z.boolean().default(false).meta({
      help: "Show the models that can be planned for without a checkpoint",
    }),
    ...openLimits("plan"),
    min_pixels: minPixels,
    max_length: count.optional().meta({
      help: `Tokens of the longest sample. Default: ${USUAL_MAX_LENGTH}, or more if a picture of ${LIMITS_IN_WORDS} needs more`,
      alias: ["max_len"],
    }),
    image_share: z
      .number()
      .min(0)
      .max(1)
      .optional()
      .meta({
        help: `Share of a sample's tokens that belong to pictures. Default: one picture of ${LIMITS_IN_WORDS}`,
      }),
    batch_size: count.default(1).meta({ help: "Samples in a micro-batch" }),
    gradient_accumulation: count.optional().meta({
      help: "Micro-batches in a step; with more than one, a copy of the gradients is planned. Default: as in lorafit train",
      alias: ["gradient_accumulation_steps"],
    }),
    recipe,
    lora_r: loraOptions.lora_r,
    base: z
      .enum(BASES)
      .optional()
      .meta({ help: "Precision of the decoder's frozen weights. Default: as stored" }),
    head_base: z
      .enum(HEAD_BASES)
      .optional()
      .meta({ help: "Precision of the embeddings and the output head. Default: as stored" }),
    vision_base: z
      .enum(BASES)
      .optional()
      .meta({ help: "Precision of the vision tower's and projector's linear layers. Default: as stored" }),
    weights: z.enum(["resident", "streamed", "shared"]).optional().meta({
      help: "Keep the layers' weights on the device, stream them from the host, or share the frozen model among several ranks. Default: the faster of those that fit",
    }),
    policy: text
      .optional()
      .meta({ help: "File of a policy, as a run records it: plan for this policy only", value: "FILE" }),
    samples: count.optional().meta({ help: "Samples in the data set: also show the time of an epoch" }),
  }),
  ...group("Answer", {
    solve: solve.optional().meta({
      help: "Find the largest value of this setting that fits, or the least memory",
      value: unknowns.join("|"),
      takes: listOfChoices([...unknowns]),
    }),
    beyond_training: z.boolean().default(false).meta({
      help: "Let --solve answer with sizes larger than the model was trained with (32,768 tokens, hd_num 55)",
    }),
    compare: z.enum(["official"]).optional().meta({
      help: "Show where the official recipe's memory goes, and what each step of lorafit saves",
    }),
    html: text.optional().meta({ help: "Write a page with charts", value: "FILE" }),
    snapshot: text.optional().meta({
      help: "Write every planned allocation of a step, for pytorch.org/memory_viz",
      value: "FILE",
    }),
    serve: z.boolean().default(false).meta({
      help: "Plan `lorafit serve` instead of a training run: how many answers of which length fit",
    }),
    max_sequences: count.optional().meta({
      help: "With --serve: answers that are computed at the same time. Default: as in lorafit serve",
    }),
    adapters: z.int().min(0).default(1).meta({
      help: "With --serve: adapters of rank lora_r that are loaded at the same time",
    }),
    explain: z.boolean().default(false).meta({
      help: "Show what uses the memory, slower options, room to spare, and the cost of increasing each setting",
    }),
  }),
});

export type PlanOptions = z.output<typeof PlanOptions>;
