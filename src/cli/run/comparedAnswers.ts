/**
 * Answers of a model before and after training, beside their pictures: from what `lorafit eval --answers
 * --json` printed.
 */
import { z } from "zod";
import { differences } from "../../differences.ts";
import { escaped } from "../output/page.ts";
import { picturesHtml, type ShownPicture } from "../output/shownPictures.ts";

/** A sample of an evaluation, as its line has it; texts are missing if there was no tokenizer. */
export const EvaluatedSample = z.object({
  index: z.int(),
  images: z.array(z.string()).optional(),
  answers: z
    .array(
      z.object({
        question: z.string().optional(),
        expected: z.string().optional(),
        answer: z.string().optional(),
      }),
    )
    .optional(),
});
export type EvaluatedSample = z.output<typeof EvaluatedSample>;

/** One evaluation with its samples. */
export interface Evaluated {
  name: string;
  samples: readonly EvaluatedSample[];
}

/** A question with the answers that each evaluation gave. */
export interface ComparedAnswer {
  images: string[];
  question: string;
  expected: string;
  given: { name: string; answer: string }[];
}

/** Number of samples on a page. */
const SHOWN = 3;

/**
 * Returns the first question of a few samples, spread evenly over those that every evaluation has answered in
 * text.
 */
export function comparedAnswers(evaluations: readonly Evaluated[]): ComparedAnswer[] {
  const [first, ...others] = evaluations.map(({ name, samples }) => ({
    name,
    answered: new Map(samples.map((sample) => [sample.index, sample])),
  }));
  if (!first) return [];
  const compared = [...first.answered.keys()].flatMap((index): ComparedAnswer[] => {
    const rows = [first, ...others].map(({ name, answered }) => ({ name, sample: answered.get(index) }));
    const given = rows.flatMap(({ name, sample }) => {
      const answer = sample?.answers?.[0]?.answer;
      return answer === undefined ? [] : [{ name, answer }];
    });
    const { images = [], answers: [asked] = [] } = rows[0]?.sample ?? {};
    const { question, expected } = asked ?? {};
    if (given.length < rows.length || question === undefined || expected === undefined) return [];
    return [{ images, question, expected, given }];
  });
  const step = Math.max(1, (compared.length - 1) / (SHOWN - 1));
  return Array.from(
    { length: Math.min(SHOWN, compared.length) },
    (_, place) => compared[Math.round(place * step)]!,
  );
}

export const ANSWERS_STYLE = `
.answer { display: grid; grid-template-columns: minmax(0, 18rem) 1fr; gap: 1rem; margin: 0 0 1.2rem; break-inside: avoid }
@media (max-width: 40rem) { .answer { grid-template-columns: 1fr } }
.answer dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem .8rem; margin: 0; align-content: start }
.answer dt { color: var(--quiet) } .answer dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
.answer mark { background: light-dark(#ffe2b8, #5a3d12); color: inherit; border-radius: 3px }`;

/** Returns the section, with marks where an answer parts from the expected one; nothing without answers. */
export function answersSection(answers: readonly (ComparedAnswer & { pictures: ShownPicture[] })[]): string {
  if (answers.length === 0) return "";
  return ["<h2>Questions and answers</h2>", ...answers.map(answerHtml)].join("\n");
}

function answerHtml({
  pictures,
  question,
  expected,
  given,
}: ComparedAnswer & { pictures: ShownPicture[] }): string {
  const rows = [
    ["question", escaped(question)],
    ["expected", escaped(expected)],
    ...given.map(({ name, answer }) => [name, markedHtml(expected, answer)]),
  ];
  const list = rows
    .map(([title, text]) => `<dt>${escaped(title!)}</dt><dd>${text || "(nothing)"}</dd>`)
    .join("");
  return `<div class="answer">${picturesHtml(pictures) || "<div></div>"}<dl>${list}</dl></div>`;
}

function markedHtml(expected: string, answer: string): string {
  const [, pieces] = differences(expected, answer);
  const isWhole = expected !== answer && pieces.every(({ isCommon }) => isCommon); // no word in common
  return pieces
    .map(({ text, isCommon }) => (isCommon && !isWhole ? escaped(text) : `<mark>${escaped(text)}</mark>`))
    .join("");
}
