/** Options of `lorafit serve`. */
import { z } from "zod";
import { openLimits } from "../../data/pictures/limits.ts";
import { count, group, text } from "../../options.ts";
import { computeOptions, pictureOptions } from "../../train/options/options.ts";

export const serve = {
  about:
    "Serves the model by OpenAI's API: chat completions with pictures, whole or streamed. Several adapters share one base model; a request chooses by the model's name. Answers are batched, within the memory limit.",
  options: z.strictObject({
    ...group("Model", {
      model: text.meta({
        help: "Model folder, or the name of a downloaded repository (org/name).",
        value: "FOLDER",
      }),
      adapter: z.array(text).default([]).meta({
        help: "PEFT adapters to serve, each under a name. Without a name: the folder's.",
        value: "NAME=FOLDER",
        takes: "adapters, as invoices=output/adapter",
      }),
      base_name: text.default("base").meta({ help: "Name of the model without an adapter.", value: "NAME" }),
      adapter_folder: text.optional().meta({
        help: "Folder whose adapters requests may load and drop at run time. Default: none.",
        value: "FOLDER",
      }),
    }),
    ...group("Server", {
      host: text.default("127.0.0.1").meta({
        help: "Address to listen on. Any but this machine's own (loopback) needs --api-key.",
        value: "ADDRESS",
      }),
      port: z.int().min(0).max(65535).default(8000).meta({ help: "Port; 0 takes a free one." }),
      api_key: text.optional().meta({
        help: "Key that clients must send. Default: the environment's LORAFIT_API_KEY, or none.",
        value: "KEY",
      }),
      max_sequences: count
        .default(32)
        .meta({ help: "Maximum number of answers at a time; more requests wait." }),
      max_tokens: count.optional().meta({
        help: "Maximum number of tokens of a request with its answer. Default: the model's positions, or what fits.",
      }),
      max_new_tokens: count.optional().meta({
        help: "Maximum number of tokens in an answer, if the request does not say. Default: 512, or what the prompt leaves.",
      }),
    }),
    ...group("Pictures", {
      ...openLimits("serve"),
      min_pixels: pictureOptions.min_pixels,
      image_compat: pictureOptions.image_compat,
      picture_folder: text.optional().meta({
        help: "Folder whose picture files requests may name. Default: none; pictures come as data URLs.",
        value: "FOLDER",
      }),
      allow_remote_images: z
        .boolean()
        .default(false)
        .meta({ help: "Download pictures from the http and https URLs in requests." }),
    }),
    ...group("Device and memory", {
      weights: z.enum(["auto", "resident", "streamed"]).default("auto").meta({
        help: "Where the base model's weights are. streamed: on the host, and copied layer by layer. auto: resident if that leaves room for requests.",
      }),
    }),
    ...computeOptions,
  }),
  examples: [
    "serve --model internlm/internlm-xcomposer2-4khd-7b --adapter invoices=output/adapter",
    "serve --model internlm/internlm-xcomposer2-4khd-7b --adapter a=runs/1/best --adapter b=runs/2/best --memory 16GiB",
    "serve --model internlm/internlm-xcomposer2-4khd-7b --base nf4 --host 0.0.0.0 --api-key $KEY",
  ],
};
