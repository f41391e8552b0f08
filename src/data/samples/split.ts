/** Sets a part of the samples aside for evaluation. A seed draws them, and no document is on both sides. */
import { formatCount, plural, UserError } from "../../errors.ts";
import { permutation } from "../stream/random.ts";
import type { SampleSource } from "./sample.ts";

/** A stream of random numbers that is far from those of epochs and official sampling. */
const SPLIT_STREAM = 2 ** 40;

/**
 * Splits samples in two, each part in the order of the files. `valSize` is a number of samples, or below 1 a
 * share of them. Samples of one file with the same `id` stay together, so a few more than `valSize` may be
 * taken aside. Throws a UserError if nothing would be left to train on.
 */
export function splitSamples<T extends { source: SampleSource }>(
  samples: readonly T[],
  valSize: number,
  seed: number,
): { train: T[]; validation: T[] } {
  const wanted = valSize < 1 ? Math.max(1, Math.round(valSize * samples.length)) : valSize;
  const documents = documentsOf(samples);
  const aside = new Set<T>();
  let kept = documents.length;
  for (const index of permutation(documents.length, seed, SPLIT_STREAM)) {
    if (aside.size >= wanted) break;
    for (const sample of documents[index] as T[]) aside.add(sample);
    kept--;
  }
  if (kept === 0 || aside.size < wanted) throw nothingLeft(samples.length, documents.length, valSize);
  return {
    train: samples.filter((sample) => !aside.has(sample)),
    validation: samples.filter((sample) => aside.has(sample)),
  };
}

/** Groups samples by file and id. A sample without an id is a document of its own. */
function documentsOf<T extends { source: SampleSource }>(samples: readonly T[]): T[][] {
  const documents = new Map<string | T, T[]>();
  for (const sample of samples) {
    const { file, id } = sample.source;
    const key = id === undefined ? sample : JSON.stringify([file, id]);
    const document = documents.get(key);
    if (document) document.push(sample);
    else documents.set(key, [sample]);
  }
  return [...documents.values()];
}

function nothingLeft(samples: number, documents: number, valSize: number): UserError {
  const found =
    documents === samples
      ? plural(samples, "sample")
      : `${plural(samples, "sample")} of ${plural(documents, "document")} (by "id")`;
  const fix =
    documents > 1
      ? `Pass a --val-size below ${formatCount(samples)}, or a share such as 0.05.`
      : "Give the records of different documents different ids, or name other data with --eval-data.";
  return new UserError(`--val-size ${valSize} leaves nothing to train on: the data has ${found}.`, { fix });
}
