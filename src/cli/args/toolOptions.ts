/** The options of commands that need no model to compute with: they report, fetch, set up, or write what there is to try things out on. */
import { z } from "zod";
import { byteAmount, count, group, listOfChoices, text } from "../../options.ts";
import { CUDA_VERSIONS } from "../../torch/install/cudaBuilds.ts";

export const report = {
  about:
    "Writes a run as one page: loss, learning rate, gradient norm, speed, and memory against its budget, as charts with tables. It needs no network.",
  options: z.strictObject(
    group("Report", {
      run: text.meta({ help: "output folder of a lorafit train, finished or not", value: "FOLDER" }),
      out: text
        .optional()
        .meta({ help: "the page; without it report.html in the run's folder", value: "FILE" }),
      preview: text.optional().meta({ help: "PNG of lorafit preview to show", value: "FILE" }),
      evals: z.array(text).default([]).meta({
        help: "outputs of lorafit eval --json to compare, each named by its file",
        value: "FILE",
        takes: "files that lorafit eval --json wrote",
      }),
    }),
  ),
  positional: "run",
  examples: [
    "report output",
    "report output --out run.html --preview preview/page-tiles.png --evals before.jsonl after.jsonl",
  ],
};

export const tokenize = {
  about: "Token ids of texts, one a line of stdin; with --json each line is a JSON string.",
  options: z.strictObject(
    group("Data", {
      model: text.meta({ help: "model folder, or a tokenizer.model", value: "FOLDER" }),
      bos: z.boolean().default(false).meta({ help: "put <s> in front" }),
      specials: z
        .boolean()
        .default(true)
        .meta({ help: "take names of control tokens in the text for these tokens" }),
    }),
  ),
  examples: ["tokenize --model 4khd --json < texts.jsonl"],
};

export const setup = {
  about:
    "Finds libtorch (LORAFIT_LIBTORCH, the project's .libtorch, Python's torch) or installs it with pip, and builds the engine. What is there already is kept. Without --cuda it installs what computing on the CPU takes: 0.6 GB to download, 1.2 GB of disk; with it, about 3 GB and 5 GB.",
  options: z.strictObject(
    group("Engine", {
      cuda: z
        .union([z.boolean(), z.enum(CUDA_VERSIONS)])
        .default(false)
        .meta({
          help: "install the libtorch with CUDA, of the version that suits the machine's cards and driver or of this one: 12.6 for cards before Turing (V100, P100) and drivers older than 580, 13.0 for all others; LORAFIT_CUDA=1 or LORAFIT_CUDA=12.6 says the same",
          value: "VERSION",
          takes: listOfChoices([...CUDA_VERSIONS, "no value at all"]),
        }),
    }),
  ),
  examples: ["setup", "setup --cuda", "setup --cuda 12.6"],
};

export const doctor = {
  about: "What lorafit finds on this machine, and the command that mends what is missing.",
  options: z.strictObject({}),
  examples: ["doctor"],
};

export const pull = {
  about:
    "Downloads a model from Hugging Face's hub or ModelScope into the hub's cache. A download that stopped is continued.",
  options: z.strictObject(
    group("Model", {
      repository: text.meta({ help: "org/name", value: "REPOSITORY" }),
      from: z.enum(["huggingface", "modelscope"]).default("huggingface").meta({
        help: "Hub to download from. ModelScope is faster in China.",
      }),
      revision: text.optional().meta({
        help: "Branch, tag or commit. Default: main, or master on ModelScope.",
        value: "NAME",
      }),
      folder: text.optional().meta({
        help: "Folder for the files instead of the cache.",
        value: "FOLDER",
      }),
    }),
  ),
  positional: "repository",
  examples: [
    "pull internlm/internlm-xcomposer2-4khd-7b",
    "pull Shanghai_AI_Laboratory/internlm-xcomposer2-4khd-7b --from modelscope",
  ],
};

export const tiny = {
  about: "Writes a small random 4KHD checkpoint with a tokenizer of its own, to try things out on.",
  options: z.strictObject(
    group("Model", {
      output: text.meta({ help: "folder for the checkpoint", value: "FOLDER" }),
      hidden: count.default(256).meta({ help: "width of the decoder" }),
      layers: count.default(4).meta({ help: "layers of the decoder" }),
      heads: count.default(8).meta({ help: "query heads" }),
      kv_heads: count.default(2).meta({ help: "key and value heads" }),
      ffn: count.default(704).meta({ help: "width of the decoder's MLP" }),
      vocab: count.default(1024).meta({ help: "tokens of the vocabulary and pieces of the tokenizer" }),
      plora_rank: count.default(16).meta({ help: "rank of PLoRA; that of wqkv is the official 8" }),
      vision_hidden: count.default(64).meta({ help: "width of the vision tower" }),
      vision_layers: count.default(2).meta({ help: "layers of the vision tower" }),
      vision_heads: count.default(4).meta({ help: "heads of the vision tower" }),
      vision_ffn: count.default(256).meta({ help: "width of the vision tower's MLP" }),
      dtype: z.enum(["fp32", "bf16"]).default("fp32").meta({ help: "type of the weights" }),
      seed: z.int().min(0).default(0).meta({ help: "of the weights" }),
      shard: byteAmount.default(2 ** 30).meta({ help: "most bytes of one file" }),
    }),
  ),
  examples: ["tiny --output tiny", "tiny --output tiny --layers 2 --hidden 128 --heads 4"],
};

export const pages = {
  about:
    "Writes synthetic document pages (receipts, forms, tables with small print) and questions with known answers, in the official format.",
  options: z.strictObject(
    group("Data", {
      output: text.meta({ help: "folder for the pages and data.txt", value: "FOLDER" }),
      count: count.default(64).meta({ help: "pages to train on" }),
      eval_count: z.int().min(0).default(0).meta({ help: "further pages, to evaluate on" }),
      turns: count.default(1).meta({ help: "questions a page" }),
      width: count.default(3840).meta({ help: "pixels" }),
      height: count.default(2160).meta({ help: "pixels" }),
      seed: z.int().min(0).default(1).meta({ help: "of what stands on the pages" }),
    }),
  ),
  examples: ["pages --output pages", "pages --output small --count 8 --width 1344 --height 1008"],
};
