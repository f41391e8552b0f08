/**
 * Options of the commands that compute with no model: reports, downloads, the engine, and things to try
 * lorafit out on.
 */
import { z } from "zod";
import { byteAmount, count, dataFiles, group, listOfChoices, text } from "../../options.ts";
import { CUDA_VERSIONS } from "../../torch/install/cudaBuilds.ts";
import { launchOptions } from "../../train/options/launchOptions.ts";

export const report = {
  about:
    "Writes a run as one HTML page: charts with tables of loss, evaluations, learning rate, gradient norm, speed, and memory under its limit. With --evals, also questions with the answers before and after training. The page needs no network.",
  options: z.strictObject(
    group("Report", {
      run: text.meta({ help: "Output folder of a training run, finished or not.", value: "FOLDER" }),
      out: text
        .optional()
        .meta({ help: "File for the page. Default: report.html in the run's folder.", value: "FILE" }),
      preview: text
        .optional()
        .meta({ help: "PNG drawn by lorafit preview to show on the page.", value: "FILE" }),
      evals: z.array(text).default([]).meta({
        help: "Outputs of lorafit eval --json to compare, oldest first; each is named after its file. Outputs of eval --answers add questions, answers and pictures.",
        value: "FILE",
        takes: "files that lorafit eval --json wrote",
      }),
      send: z.boolean().default(false).meta({
        help: "Write no page: send the MLflow server what the run could not send, because the server was down or slow",
      }),
    }),
  ),
  positional: "run",
  examples: [
    "report output",
    "report output --send",
    "report output --out run.html --preview preview/page-tiles.png --evals before.jsonl after.jsonl",
  ],
};

export const ui = {
  about:
    "Serves a page that shows the runs and sweeps below a folder: live curves, comparisons, memory, and forms to plan and start runs. Training does not depend on the page: closing it, or ending this command, stops no run.",
  options: z.strictObject(
    group("Page", {
      folder: text.default(".").meta({
        help: "Folder that holds the output folders of runs, at any depth.",
        value: "FOLDER",
      }),
      port: z.int().min(0).max(65535).default(4157).meta({
        help: "Port to listen on. 0: a free one.",
      }),
      host: text.default("127.0.0.1").meta({
        help: "Address to listen on. Any other than this machine's own makes the page reachable from the network, for whoever has its token.",
        value: "ADDRESS",
      }),
      open: z.boolean().default(false).meta({ help: "Open the page in the browser." }),
    }),
  ),
  positional: "folder",
  examples: ["ui", "ui runs --open", "ui runs --port 0 --json"],
};

export const tokenize = {
  about:
    "Prints the token ids of texts, one text for each line of stdin. With --json each line is a JSON string.",
  options: z.strictObject(
    group("Data", {
      model: text.meta({ help: "Model folder, or a tokenizer.model file.", value: "FOLDER" }),
      bos: z.boolean().default(false).meta({ help: "Put <s> in front of each text." }),
      specials: z.boolean().default(true).meta({
        help: "Read names of control tokens in the text as these tokens. With --no-specials they are plain text.",
      }),
    }),
  ),
  examples: ["tokenize --model internlm/internlm-xcomposer2-4khd-7b --json < texts.jsonl"],
};

export const setup = {
  about:
    "Finds libtorch (LORAFIT_LIBTORCH, the project's .libtorch, Python's torch) or installs it with pip, and builds the engine. Keeps what is there already. For the CPU it downloads 0.6 GB and uses 1.2 GB of disk; with --cuda, about 3 GB and 5 GB.",
  options: z.strictObject(
    group("Engine", {
      cuda: z
        .union([z.boolean(), z.enum(CUDA_VERSIONS)])
        .default(false)
        .meta({
          help: "Install libtorch with CUDA. Without VERSION: the one that suits this machine's cards and driver. 12.6 is for cards before Turing (V100, P100) and drivers older than 580, 13.0 for all others. LORAFIT_CUDA=1 and LORAFIT_CUDA=12.6 do the same.",
          value: "VERSION",
          takes: listOfChoices([...CUDA_VERSIONS, "no value at all"]),
        }),
    }),
  ),
  examples: ["setup", "setup --cuda", "setup --cuda 12.6"],
};

export const doctor = {
  about:
    "Reports what lorafit finds on this machine, and the command that installs what is missing. With --peers, checks the ranks of a job instead: who sees whom, how fast, and with which versions. Start it with the launcher that the training will have.",
  options: z.strictObject(
    group("Several cards", {
      peers: z.boolean().default(false).meta({
        help: "Check the ranks that torchrun, srun, mpirun or --gpus starts, instead of this machine.",
      }),
      gpus: launchOptions.gpus.meta({
        help: "Start a rank for each of this many GPUs of this machine, and check them; all: for every visible one.",
        value: "N",
        takes: "a number of GPUs, or all",
      }),
      cpu_ranks: launchOptions.cpu_ranks.meta({ help: "Start this many ranks on the CPU, and check them." }),
      data: dataFiles
        .optional()
        .meta({ help: "Files of samples whose content must be the same for all ranks.", value: "FILE" }),
      model: text.optional().meta({
        help: "Model whose configuration and sizes of files must be the same for all ranks.",
        value: "FOLDER",
      }),
      timeout: count.default(60).meta({
        help: "Seconds to wait for a rank that does not come, or for a link that does not work.",
      }),
    }),
  ),
  examples: [
    "doctor",
    "doctor --peers --gpus all",
    "doctor --peers --cpu-ranks 2 --json",
    "doctor --peers --data receipts.json --timeout 120",
  ],
};

export const pull = {
  about:
    "Downloads a model from Hugging Face's hub or ModelScope into the hub's cache. A download that stopped is continued.",
  options: z.strictObject(
    group("Model", {
      repository: text.meta({ help: "Repository to download, as org/name.", value: "REPOSITORY" }),
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
  about: "Writes a small random checkpoint with its own tokenizer, for trying lorafit.",
  options: z.strictObject(
    group("Model", {
      output: text.meta({ help: "Folder for the checkpoint, new or empty.", value: "FOLDER" }),
      family: z
        .enum(["xcomposer2-4khd", "xcomposer2_5", "xcomposer2_vl", "qwen2_5_vl", "internvl", "qwen3_vl"])
        .default("xcomposer2-4khd")
        .meta({ help: "Kind of model, by its name in docs/models.md." }),
      hidden: count.default(256).meta({ help: "Width of the decoder's rows." }),
      layers: count.default(4).meta({ help: "Number of decoder layers." }),
      heads: count.default(8).meta({ help: "Number of query heads." }),
      kv_heads: count.default(2).meta({ help: "Number of key and value heads." }),
      ffn: count.default(704).meta({ help: "Width of the decoder's MLP." }),
      vocab: count.default(1024).meta({ help: "Number of tokens in the vocabulary and the tokenizer." }),
      plora_rank: count
        .default(16)
        .meta({ help: "Rank of PLoRA in an XComposer model; wqkv of 4KHD has the official 8." }),
      vision_hidden: count.default(64).meta({ help: "Width of the vision tower's rows." }),
      vision_layers: count.default(2).meta({ help: "Number of vision tower layers." }),
      vision_heads: count.default(4).meta({ help: "Number of vision tower heads." }),
      vision_ffn: count.default(256).meta({ help: "Width of the vision tower's MLP." }),
      dtype: z.enum(["fp32", "bf16"]).default("fp32").meta({ help: "Type of the weights." }),
      seed: z.int().min(0).default(0).meta({ help: "Seed of the weights." }),
      shard: byteAmount.default(2 ** 30).meta({ help: "Maximum size of one file." }),
    }),
  ),
  examples: [
    "tiny --output tiny-qwen --family qwen2_5_vl",
    "tiny --output tiny",
    "tiny --output tiny --layers 2 --hidden 128 --heads 4",
  ],
};

export const demo = {
  about:
    "Runs the main commands once, on synthetic pages and a tiny random model: pages, tiny, preview, eval, train within a memory limit, generate, merge and report. Takes 2 to 5 minutes on two cores.",
  options: z.strictObject(
    group("Model", {
      model: text.default("4khd").meta({
        help: "Kind of model: 4khd, qwen2.5-vl, qwen3-vl, internvl3, or any other name of a family or preset in docs/models.md.",
        value: "NAME",
      }),
      output: text
        .default("demo-out")
        .meta({ help: "Folder for all results; those of an earlier demo are replaced.", value: "FOLDER" }),
    }),
  ),
  examples: ["demo", "demo --model qwen2.5-vl"],
};

export const pages = {
  about:
    "Draws document pages (receipts, forms, tables with small print), and writes questions with known answers in the official format.",
  options: z.strictObject(
    group("Data", {
      output: text.meta({ help: "Folder for the pages and data.txt, new or empty.", value: "FOLDER" }),
      count: count.default(64).meta({ help: "Number of pages to train on." }),
      eval_count: z.int().min(0).default(0).meta({ help: "Number of further pages to evaluate on." }),
      turns: count.default(1).meta({ help: "Number of questions for each page." }),
      width: count.default(3840).meta({ help: "Width of a page, in pixels." }),
      height: count.default(2160).meta({ help: "Height of a page, in pixels." }),
      seed: z.int().min(0).default(1).meta({ help: "Seed of what is on the pages." }),
    }),
  ),
  examples: ["pages --output pages", "pages --output small --count 8 --width 1344 --height 1008"],
};
