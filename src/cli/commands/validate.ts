/**
 * `lorafit validate`: checks that every sample of a data set can be trained on, and reports their lengths.
 */

import { limitOf } from "../../data/pictures/limits.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import { countLabels } from "../../data/samples/rows.ts";
import { formatCount, plural } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import { quoted } from "../../program.ts";
import { readySamples } from "../../train/data/dataset.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { checkHooks, type Output, table } from "../output/output.ts";
import { inspectModel } from "../session.ts";

export async function run(options: OptionsOf<"validate">, output: Output): Promise<void> {
  const known = await inspectModel(options.model, options);
  const { samples, skipped } = await readySamples(options.data, known, options, {
    ...checkHooks(output),
    thorough: !options.quick,
  });
  const byLength = samples.toSorted((a, b) => a.tokens - b.tokens);
  const shown = {
    shortest: byLength[0]!,
    median: byLength[byLength.length >> 1]!,
    longest: byLength.at(-1)!,
  };
  output.record({
    samples: samples.length,
    skipped: skipped.length,
    pictures: sum(samples.map(({ images }) => images.length)),
    tokens: sum(samples.map(({ tokens }) => tokens)),
    labelTokens: sum(samples.map(({ labels }) => countLabels(labels))),
    shortest: shown.shortest.tokens,
    median: shown.median.tokens,
    longest: shown.longest.tokens,
  });
  output.answer(
    `${plural(samples.length, "sample")} can be trained on: ${formatCount(sum(samples.map(({ tokens }) => tokens)))} tokens, ${formatCount(sum(samples.map(({ labels }) => countLabels(labels))))} of them learned`,
  );
  const rows = Object.entries(shown).map(([name, { tokens, source }]) => [
    `  ${name}`,
    `${formatCount(tokens)} tokens`,
    describeSource(source),
  ]);
  output.answer(table(rows));
  const { model, data, max_length, skip_bad, min_pixels } = options;
  const { limit } = pictureFormOf(known.config);
  const least = min_pixels === undefined ? "" : ` --min-pixels ${min_pixels}`;
  const read = `--${limit.flag} ${limitOf(options, limit)}${least} --max-length ${max_length}${skip_bad ? " --skip-bad" : ""}`;
  const train = `train --model ${quoted(model)} --data ${data.map(quoted).join(" ")} ${read}`;
  output.next({ "Train on them": train });
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
