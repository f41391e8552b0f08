/** `lorafit generate`: answers the last question of each sample, or one prompt. */
import { resolve } from "node:path";
import { imageSize } from "../../data/pictures/decode.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import { type Dataset, readDataset } from "../../data/samples/samples.ts";
import { formatCount, plural, UsageError } from "../../errors.ts";
import { checkSamples } from "../../train/data/dataset.ts";
import { answerPrompt, withPlaceholders } from "../answers.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { EXIT_INTERRUPTED, type Interruption, interruptible } from "../output/interruption.ts";
import { checkHooks, type Output } from "../output/output.ts";
import { inspectModel, withModel } from "../session.ts";

export async function run(options: OptionsOf<"generate">, output: Output): Promise<void> {
  const dataset = datasetOf(options);
  for (const file of options.image) await imageSize(file, options.image_compat); // throws if it is not a picture
  const known = await inspectModel(options.model, options);
  const { samples } = await checkSamples(dataset, known, options, {
    purpose: options.data ? "generate" : "ask",
    ...checkHooks(output),
  });
  const answer = ({ signal, listen }: Interruption): Promise<number> =>
    withModel(known, options, output, async (session) => {
      listen();
      for (const [index, sample] of samples.entries()) {
        if (signal.aborted) return index;
        if (options.data) output.answer(output.paint("bold", describeSource(sample.source)));
        const onText = (piece: string): void => output.piece(piece);
        const { ids, text } = await answerPrompt(sample, session, options, { onText });
        output.record({ index, ids, text });
        output.answer(text === null ? ids.join(" ") : "");
      }
      return samples.length;
    });
  const answered = await interruptible(output, "stopping after this answer", answer, { saves: false });
  if (answered === samples.length) return;
  output.note(`stopped after ${formatCount(answered)} of ${plural(samples.length, "sample")}`);
  process.exitCode = EXIT_INTERRUPTED;
}

/** Returns the data set of --data, or one made of the prompt. */
function datasetOf({ data, prompt, image }: OptionsOf<"generate">): Dataset {
  if (data && prompt === undefined) return readDataset(data);
  if (data || prompt === undefined) {
    throw new UsageError(
      data ? "--data and --prompt cannot be given together." : "There is nothing to answer.",
      {
        fix: "Pass --data FILE, or --prompt TEXT with or without --image FILE.",
      },
    );
  }
  const source = { file: "--prompt", index: 0 };
  const turns = [{ role: "user" as const, text: withPlaceholders(prompt, image.length) }];
  const images = image.map((file) => resolve(file));
  return { files: [], samples: [{ kind: "dialogue", source, turns, images }], bad: [] };
}
