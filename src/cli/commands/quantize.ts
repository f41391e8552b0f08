/** `lorafit quantize`: writes a checkpoint in 8 or 4 bits, and measures what that costs in accuracy. */
import { formatBytes } from "../../errors.ts";
import { tensorsOf } from "../../models/families.ts";
import type { TensorSpec } from "../../models/family.ts";
import { type MatrixReport, quantizeCheckpoint } from "../../models/precision/quantizeCheckpoint.ts";
import { quoted } from "../../program.ts";
import { readySamples } from "../../train/data/dataset.ts";
import { type SampleLoss, sampleLosses, totalLoss } from "../../train/evaluate/evaluate.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { stoppable } from "../output/interruption.ts";
import { byteProgress, checkHooks, noteLeftovers, type Output, table } from "../output/output.ts";
import { inspectModel, type KnownModel, withModel } from "../session.ts";

type Options = OptionsOf<"quantize">;

export async function run(options: Options, output: Output): Promise<void> {
  const known = await inspectModel(options.model, options);
  const ready = options.data && (await readySamples(options.data, known, options, checkHooks(output)));
  noteLeftovers(options.output, output);
  const written = await stoppable(output, (signal) =>
    quantizeCheckpoint(known.folder, options.output, {
      base: options.base,
      headBase: options.head_base,
      visionBase: options.vision_base,
      report: options.report,
      onProgress: byteProgress(output),
      signal,
    }),
  );
  if (!written) return;
  const { matrices, beforeBytes, bytes } = written;
  if (options.report) {
    for (const matrix of matrices) output.record(matrix);
    output.answer(errorTables(matrices, tensorsOf(known.config)));
  }
  const { base, head_base: headBase, vision_base: visionBase } = options;
  output.record({ output: options.output, base, headBase, visionBase, beforeBytes, bytes });
  output.answer(`wrote ${options.output} (${formatBytes(bytes)}; it was ${formatBytes(beforeBytes)})`);
  const train = `train --model ${quoted(options.output)} --data data.txt`;
  if (!ready) return output.next({ "Train on it": train });
  const before = await lossOf(known, options, "before", ready.samples, output);
  const after = await lossOf(
    await inspectModel(options.output, options),
    options,
    "quantised",
    ready.samples,
    output,
  );
  const difference = after - before;
  output.record({ lossBefore: before, loss: after, difference });
  const signed = `${difference < 0 ? "" : "+"}${difference.toFixed(4)}`;
  output.answer(`loss ${before.toFixed(4)} before, ${after.toFixed(4)} quantised (${signed})`);
  output.next({ "Train on it": train });
}

/** Returns the mean loss over all labels, of the model as its folder stores it. */
function lossOf(
  known: KnownModel,
  options: Options,
  which: string,
  samples: Parameters<typeof sampleLosses>[0],
  output: Output,
): Promise<number> {
  const asStored = { ...options, base: undefined, head_base: undefined, vision_base: undefined };
  return withModel(known, asStored, output, async (session) => {
    const losses: SampleLoss[] = [];
    for await (const loss of sampleLosses(samples, session)) {
      losses.push(loss);
      output.live(`${which}: sample ${losses.length} of ${samples.length}`);
    }
    return totalLoss(losses);
  });
}

/**
 * Returns relative errors in percent: a table of the decoder's layers, one of the vision tower's if it is
 * quantised, and what is in no layer.
 */
function errorTables(matrices: readonly MatrixReport[], tensors: ReadonlyMap<string, TensorSpec>): string {
  const tables = new Map<string, string[][]>();
  const others: string[][] = [];
  const errors = new Map(matrices.map(({ name, relativeError = 0 }) => [name, relativeError]));
  for (const [name, { part, layer, linear = "" }] of tensors) {
    const relativeError = errors.get(name);
    if (relativeError === undefined) continue;
    if (layer === undefined) {
      others.push([name, percent(relativeError)]);
      continue;
    }
    const title = part === "vision" ? "vision layer" : "layer";
    const rows = tables.get(title) ?? [["relative error"]];
    tables.set(title, rows);
    if (layer === 0) rows[0]!.push(linear.replace(/^.*\./, ""));
    rows[layer + 1] = [...(rows[layer + 1] ?? [`${title} ${layer}`]), percent(relativeError)];
  }
  return [...tables.values(), ...(others.length > 0 ? [others] : [])].map(table).join("\n\n");
}

function percent(error: number): string {
  return `${(100 * error).toFixed(3)} %`;
}
