/** `lorafit preview`: shows what the model sees of a picture, or of the samples of a data set. */

import { basename, extname, join } from "node:path";
import { makeFolder, writeFileWhole } from "../../checkpoint/files/disk.ts";
import { resolveModel } from "../../checkpoint/folder.ts";
import { imageSize } from "../../data/pictures/decode.ts";
import type { PictureForm } from "../../data/pictures/form.ts";
import { DEFAULT_RULES, pictureForm } from "../../data/pictures/forms.ts";
import { limitOf } from "../../data/pictures/limits.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import { encodeSample } from "../../data/samples/dialogue.ts";
import { explainSample, type Span } from "../../data/samples/explain.ts";
import { readSamples } from "../../data/samples/samples.ts";
import { UsageError } from "../../errors.ts";
import { pictureFormOf, tokenizerOf } from "../../models/families.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { noteRest, type Output } from "../output/output.ts";
import { type ShownSample, samplesHtml } from "../output/samplesHtml.ts";
import { shownPictures } from "../output/shownPictures.ts";
import { inspectModel } from "../session.ts";

type PreviewOptions = OptionsOf<"preview">;

export async function run(options: PreviewOptions, output: Output): Promise<void> {
  const { image, data } = options;
  if (image !== undefined && !data) return previewImage(image, options, output);
  if (data && image === undefined) return previewSamples(data, options, output);
  throw new UsageError(
    data ? "--image and --data cannot be given together." : "There is nothing to preview.",
    {
      fix: "Pass --image FILE, or --model FOLDER --data FILE.",
    },
  );
}

async function previewImage(file: string, options: PreviewOptions, output: Output): Promise<void> {
  const { image_compat: compat, out } = options;
  const form = await formFor(options);
  const limit = limitOf(options, form.limit);
  const { width, height } = await imageSize(file, compat);
  const preview = await form.preview(file, limit, compat);
  makeFolder(out);
  const name = basename(file, extname(file));
  const transformed = join(out, `${name}.png`);
  const drawing = join(out, `${name}-tiles.png`);
  writeFileWhole(transformed, await preview.transformed());
  const caption = `${basename(file)}, ${width} x ${height}, ${form.limit.option} ${limit}`;
  writeFileWhole(drawing, await preview.drawing(caption));
  output.record({ ...preview.facts, image: transformed });
  output.answer(`${caption}: ${preview.words}`);
  output.answer(`  ${transformed}  the picture as the model sees it\n  ${drawing}  with its tiles drawn in`);
}

/** Returns the form of the model's pictures; without a model, the usual one. */
async function formFor(options: PreviewOptions): Promise<PictureForm> {
  const { model } = options;
  if (model === undefined) return pictureForm(DEFAULT_RULES);
  return pictureFormOf((await inspectModel(model, options)).config);
}

async function previewSamples(files: string[], options: PreviewOptions, output: Output): Promise<void> {
  const tokenizer = options.model === undefined ? undefined : await tokenizerOf(resolveModel(options.model));
  const samples = readSamples(files);
  if (options.model === undefined && samples.some(({ kind }) => kind === "dialogue")) {
    throw new UsageError("These samples are text, and reading text needs the tokenizer of a model.", {
      fix: "Pass --model FOLDER.",
    });
  }
  const labelNewline = options.label_newline;
  const shown: ShownSample[] = [];
  for (const sample of output.json || options.all ? samples : samples.slice(0, options.show)) {
    const { source, inputIds, labels, images } = encodeSample(sample, tokenizer, 1, { labelNewline }); // no picture is laid out
    const spans = explainSample({ source, inputIds, labels, images }, tokenizer);
    const text = spans.map((span) => span.text).join("");
    output.record({ inputIds: [...inputIds], labels: [...labels], text });
    const title = describeSource(source);
    output.answer(`${output.paint("bold", title)}\n${spans.map((span) => painted(span, output)).join("")}`);
    if (output.json) continue;
    const paths = images.map(({ path }) => path);
    shown.push({ title, spans, pictures: await shownPictures(paths, options.image_compat) });
  }
  if (output.json) return;
  const page = join(options.out, "samples.html");
  makeFolder(options.out);
  writeFileWhole(page, samplesHtml(shown));
  output.note(`wrote ${page}: the samples with their pictures, for a browser`);
  noteRest(options, samples.length, output);
}

const COLOURS = { prompt: "gray", picture: "magenta", answer: "green" } as const;

/** Returns a span in its colour; without colours, brackets mark what is learned. */
function painted({ kind, text }: Span, output: Output): string {
  return kind === "answer" ? output.mark(COLOURS[kind], text) : output.paint(COLOURS[kind], text);
}
