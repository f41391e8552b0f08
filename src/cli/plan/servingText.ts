/** The answer of `lorafit plan --serve` for people. */
import type { ServingAnswer } from "../../answer/serving.ts";
import { formatBytes, formatCount, plural } from "../../errors.ts";
import { table } from "../output/output.ts";
import { gib } from "./words.ts";

export function servingText(answer: ServingAnswer): string {
  const { fits, device, limitBytes, peakBytes, maxTokens, kvTokens, maxSequences } = answer;
  const limit = limitBytes === null ? "" : ` in ${formatBytes(limitBytes)}`;
  if (!fits)
    return [
      `The model can't be served on ${device}${limit}: it needs at least ${gib(peakBytes).trim()}.`,
      "",
      "Pass --base nf4 for a smaller base model, fewer --max-sequences or --adapters, or more memory.",
    ].join("\n");
  return [
    `Serves up to ${plural(maxSequences, "answer")} at a time on ${device}${limit}, of up to ${formatCount(maxTokens)} tokens each.`,
    "",
    table([
      ["tokens of prompt and answer", "at the same time"],
      ...answer.lengths.map(({ tokens, sequences }) => [formatCount(tokens), formatCount(sequences)]),
    ]),
    "",
    table(memoryRows(answer)),
    "",
    `Further requests wait. Keys and values of ${formatCount(kvTokens)} tokens have room; those of ended answers stay for prompts that begin the same.`,
  ].join("\n");
}

/** Rows of the peak by what it holds. */
function memoryRows({ parts, weights, adapters, peakBytes, hostBytes }: ServingAnswer): string[][] {
  return [
    [weights === "resident" ? "base model" : "base model, streamed", gib(parts.weights)],
    ...(adapters > 0 ? [[`room for ${plural(adapters, "adapter")}`, gib(parts.adapters)]] : []),
    ["keys and values", gib(parts.keysAndValues)],
    ["features of pictures", gib(parts.features)],
    ["working set", gib(parts.workingSet)],
    ["all", gib(peakBytes)],
    ...(hostBytes > 0 ? [["on the host", gib(hostBytes)]] : []),
  ];
}
