/** Counts the samples of a data set: their lengths, and what would keep them from being trained on. */
import { type BadSample, describeSource } from "../../../data/samples/badSamples.ts";
import { countLabels } from "../../../data/samples/rows.ts";
import type { Sample } from "../../../data/samples/sample.ts";
import type { PreparedSample } from "../../../data/samples/validate.ts";
import type { Survey, SurveyReply } from "./dataApi.ts";
import { type DataReader, preparerOf, readRecords, shortened } from "./readData.ts";
import { viewOfRecord } from "./sampleViews.ts";

const FIRST_SAMPLES = 12;
const SAMPLES_AT_ONCE = 32;
const PROGRESS_MS = 400;
const MOST_LONGEST = 20;
const MOST_BAD = 100;
/**
 * Reads the data set from its start to its end, and sends the first samples at once, then counts. Throws
 * UserError for a file that cannot be read as a whole, or that lies outside of the folder.
 */
export async function surveyData(
  reader: DataReader,
  send: (reply: SurveyReply) => void,
  signal: AbortSignal,
): Promise<void> {
  const survey = emptySurvey(reader);
  const prepare = preparerOf(reader);
  let sentAtMs = performance.now();
  for await (const batch of batchesOf(reader, survey)) {
    if (signal.aborted) return;
    const isFirst = survey.records === 0;
    const results = await Promise.all(batch.map((record) => ("kind" in record ? prepare(record) : record)));
    for (const result of results) count(survey, reader, result);
    if (isFirst) send({ kind: "samples", samples: await firstViews(reader, batch) });
    if (!isFirst && performance.now() - sentAtMs < PROGRESS_MS) continue;
    send({ kind: "progress", survey });
    sentAtMs = performance.now();
  }
  if (!signal.aborted) send({ kind: "end", survey: { ...survey, total: survey.records } });
}

function firstViews(reader: DataReader, batch: (Sample | BadSample)[]) {
  return Promise.all(
    batch.slice(0, FIRST_SAMPLES).map((record, index) => viewOfRecord(record, index, reader)),
  );
}

/** Yields the records some at a time, the first ones in a batch of their own. */
async function* batchesOf(reader: DataReader, survey: Survey): AsyncGenerator<(Sample | BadSample)[]> {
  let batch: (Sample | BadSample)[] = [];
  let most = FIRST_SAMPLES;
  for (const record of readRecords(reader, survey)) {
    batch.push(record);
    if (batch.length < most) continue;
    yield batch;
    batch = [];
    most = SAMPLES_AT_ONCE;
    await new Promise(setImmediate); // a message may cancel this
  }
  if (batch.length > 0) yield batch;
}

function emptySurvey({ tokenizer }: DataReader): Survey {
  return {
    ...{ records: 0, usable: 0, pictures: 0, tokens: 0, labelTokens: 0, badCount: 0 },
    ...{ lengths: [], longest: [], bad: [], warnings: [], isCounted: tokenizer !== undefined },
  };
}

function count(survey: Survey, reader: DataReader, result: PreparedSample | BadSample | "uncounted"): void {
  const index = survey.records++;
  if (result === "uncounted") return;
  if ("message" in result) {
    survey.badCount++;
    if (survey.bad.length < MOST_BAD)
      survey.bad.push({ index, error: shortened(result.message, reader), fix: result.fix });
    return;
  }
  const { tokens, labels, images, source } = result;
  survey.usable++;
  survey.isCounted = true;
  survey.pictures += images.length;
  survey.tokens += tokens;
  survey.labelTokens += countLabels(labels);
  addLength(survey.lengths, tokens);
  if (tokens <= (survey.longest[MOST_LONGEST - 1]?.tokens ?? -1)) return;
  survey.longest.push({ index, tokens, title: shortened(describeSource(source), reader) });
  survey.longest.sort((one, other) => other.tokens - one.tokens);
  survey.longest.length = Math.min(survey.longest.length, MOST_LONGEST);
}

/** Counts a length in a list that is sorted by length. */
function addLength(lengths: Survey["lengths"], tokens: number): void {
  let [low, high] = [0, lengths.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (lengths[middle]![0] < tokens) low = middle + 1;
    else high = middle;
  }
  const found = lengths[low];
  if (found?.[0] === tokens) found[1]++;
  else lengths.splice(low, 0, [tokens, 1]);
}
