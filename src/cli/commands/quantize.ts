/** `lorafit quantize`: a checkpoint with its base in 8 or 4 bits, and what that costs in accuracy. */
import { formatBytes } from "../../errors.ts";
import { type MatrixReport, quantizeCheckpoint } from "../../models/quantizeCheckpoint.ts";
import { LINEAR_NAMES } from "../../models/spec.ts";
import { readySamples } from "../../train/dataset.ts";
import { type SampleLoss, sampleLosses, totalLoss } from "../../train/evaluate.ts";
import { stoppable } from "../interruption.ts";
import type { OptionsOf } from "../options.ts";
import { byteProgress, type Output, table } from "../report.ts";
import { inspectModel, type KnownModel, withModel } from "../session.ts";

type Options = OptionsOf<"quantize">;

export async function run(options: Options, output: Output): Promise<void> {
  const known = await inspectModel(options.model);
  const notice = (text: string): void => output.note(text);
  const ready = options.data && (await readySamples(options.data, known, options, notice));
  const written = await stoppable(output, (signal) =>
    quantizeCheckpoint(known.folder, options.output, {
      base: options.base,
      headBase: options.head_base,
      report: options.report,
      onProgress: byteProgress(output),
      signal,
    }),
  );
  if (!written) return;
  const { matrices, beforeBytes, bytes } = written;
  if (options.report) {
    for (const matrix of matrices) output.record(matrix);
    output.answer(errorTable(matrices));
  }
  output.record({ output: options.output, base: options.base, beforeBytes, bytes });
  output.answer(`wrote ${options.output} (${formatBytes(bytes)}; it was ${formatBytes(beforeBytes)})`);
  if (!ready) return;
  const before = await lossOf(known, options, "before", ready.samples, output);
  const after = await lossOf(await inspectModel(options.output), options, "quantised", ready.samples, output);
  const difference = after - before;
  output.record({ lossBefore: before, loss: after, difference });
  const signed = `${difference < 0 ? "" : "+"}${difference.toFixed(4)}`;
  output.answer(`loss ${before.toFixed(4)} before, ${after.toFixed(4)} quantised (${signed})`);
}

/** Mean over all labels; the model is loaded as its folder has it. */
function lossOf(
  known: KnownModel,
  options: Options,
  which: string,
  samples: Parameters<typeof sampleLosses>[0],
  output: Output,
): Promise<number> {
  const asStored = { ...options, base: undefined, head_base: undefined };
  return withModel(known, asStored, output, async (session) => {
    const losses: SampleLoss[] = [];
    for await (const loss of sampleLosses(samples, session)) {
      losses.push(loss);
      output.live(`${which}: sample ${losses.length} of ${samples.length}`);
    }
    return totalLoss(losses);
  });
}

/** Relative errors in percent, a layer a row; what is no layer's linear comes below. */
function errorTable(matrices: readonly MatrixReport[]): string {
  const errors = new Map(matrices.map(({ name, relativeError = 0 }) => [name, relativeError]));
  const shown = (name: string): string => `${(100 * errors.get(name)!).toFixed(3)} %`;
  const layers = matrices.flatMap(
    ({ name }) => /^(model\.layers\.\d+)\.attention\.wqkv/.exec(name)?.[1] ?? [],
  );
  const rows = layers.map((prefix) => [
    prefix.replace("model.layers.", "layer "),
    ...LINEAR_NAMES.map((linear) => shown(`${prefix}.${linear}.weight`)),
  ]);
  const others = matrices
    .filter(({ name }) => !name.startsWith("model.layers."))
    .map(({ name }) => [name, shown(name)]);
  return table([
    ["relative error", ...LINEAR_NAMES.map((linear) => linear.replace(/^.*\./, ""))],
    ...rows,
    ...others,
  ]);
}
