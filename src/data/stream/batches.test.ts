import { setTimeout } from "node:timers/promises";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { integers, readFixture } from "../../../tests/helpers/fixtures.ts";
import { golden } from "../../../tests/helpers/shared.ts";
import { UserError } from "../../errors.ts";
import type { LoadedPicture } from "../pictures/form.ts";
import { hdGrid, imageTokens, tileGrid } from "../pictures/hdTiles/hdGrid.ts";
import { loadHdImage } from "../pictures/hdTiles/hdImage.ts";
import { HD_TILES } from "../pictures/hdTiles/hdTiles.ts";
import { IGNORE, IMAGE_SLOT } from "../samples/sample.ts";
import { readDataset } from "../samples/samples.ts";
import { type PreparedSample, prepareSamples } from "../samples/validate.ts";
import {
  type BatchOptions,
  createBatches,
  layoutBatch,
  type MicroBatch,
  type PictureLoader,
} from "./batches.ts";
import { fileOrder, shuffledOrder } from "./drawOrder.ts";
import { START } from "./packing.ts";

const OFFICIAL: PictureLoader = { load: (path, limit) => loadHdImage(path, limit, "official") };

describe("the golden cases as micro-batches", async () => {
  const { samples } = await prepareSamples(readDataset(golden("tiny_cases/cases.jsonl")), {
    tokenizer: undefined,
    vocabSize: 1024,
    pictures: HD_TILES,
    pictureLimit: 1,
    maxLength: 4096,
    imageCompat: "official",
    purpose: "train",
    skipBad: false,
  });
  const names = ["c1_text", "c2_img_1x1", "c3_img_2x3", "c4_img_3x1", "c5_two_images"];
  const cases = names.map((name) => readCase(name));

  it.each(names.map((name, index) => ({ name, index })))(
    "$name has the official rows and labels",
    async ({ index }) => {
      const options = { ...streamOf(samples.slice(index, index + 1), OFFICIAL), draws: 1 };
      const [batch] = await collect(options);
      expect(Array.from(batch?.inputIds ?? [])).toEqual(cases[index]?.inputIds);
      expect(Array.from(batch?.targets ?? [])).toEqual(cases[index]?.targets);
      expect(batch?.sampleTokens).toEqual([cases[index]?.inputIds.length]);
      const slices = batch?.imageSlices ?? [];
      expect(slices.flatMap(({ start, end }) => rowsFrom(start, end))).toEqual(cases[index]?.imageRows);
      expect(slices.map(({ image }) => image)).toEqual(batch?.images.map((_, image) => image));
      expect(batch?.labelTokens).toBe(cases[index]?.labelTokens);
    },
  );

  it("all packed are the rows of each, one after the other", async () => {
    const [batch] = await collect({
      ...streamOf(samples, OFFICIAL),
      packing: { by: "tokens", tokens: 4096 },
    });
    expect(batch?.sampleTokens).toEqual(cases.map(({ inputIds }) => inputIds.length));
    expect(Array.from(batch?.inputIds ?? [])).toEqual(cases.flatMap(({ inputIds }) => inputIds));
    expect(Array.from(batch?.targets ?? [])).toEqual(cases.flatMap(({ targets }) => targets));
    expect(batch?.labelTokens).toBe(cases.reduce((sum, { labelTokens }) => sum + labelTokens, 0));
  });

  it("c6_truncated and both rows of c7_text_batch2_padded have the official rows and labels", () => {
    const truncated = readFixture(golden("tiny_cases/c6_truncated.safetensors"));
    const padded = readFixture(golden("tiny_cases/c7_text_batch2_padded.safetensors"));
    const [ids, labels, mask] = ["input_ids", "labels", "attention_mask"].map((name) =>
      integers(padded, name),
    ) as [number[], number[], number[]];
    const rows = [0, 1].map((row) => {
      const from = row * 30;
      const length = mask.slice(from, from + 30).filter(Boolean).length;
      return { ids: ids.slice(from, from + length), labels: labels.slice(from, from + length) };
    });
    const all = [{ ids: integers(truncated, "input_ids"), labels: integers(truncated, "labels") }, ...rows];
    const batch = layoutBatch(
      all.map((row) => ({
        sample: encodedOf(row.ids, row.labels),
        images: row.ids.includes(-100) ? [picture(1, 1)] : [],
      })),
    );
    expect(Array.from(batch.inputIds)).toEqual(all.flatMap((row) => row.ids.map((id) => Math.max(0, id))));
    expect(Array.from(batch.targets)).toEqual(all.flatMap((row) => [...row.labels.slice(1), IGNORE]));
  });
});

describe("the layout of any samples", () => {
  const loaded = fc.array(
    fc.record({
      text: fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 6 }),
      grids: fc.array(
        fc.record({ rows: fc.integer({ min: 1, max: 3 }), cols: fc.integer({ min: 1, max: 3 }) }),
        { maxLength: 2 },
      ),
    }),
    { minLength: 1, maxLength: 4 },
  );

  it("has a row for each token, and no target across samples or on pictures", () => {
    fc.assert(
      fc.property(loaded, (samples) => {
        const batch = layoutBatch(
          samples.map(({ text, grids }) => {
            const slots = grids.map(() => IMAGE_SLOT);
            const ids = [...text.slice(0, 1), ...slots, ...text.slice(1)];
            return {
              sample: encodedOf(ids, ids),
              images: grids.map(({ rows, cols }) => picture(rows, cols)),
            };
          }),
        );
        const rows = batch.inputIds.length;
        expect(batch.targets.length).toBe(rows);
        expect(batch.sampleTokens.reduce((sum, count) => sum + count, 0)).toBe(rows);
        const ends = new Set<number>();
        batch.sampleTokens.reduce((start, count) => {
          ends.add(start + count - 1);
          return start + count;
        }, 0);
        const inPicture = new Set(
          batch.imageSlices.flatMap(({ start, end }) =>
            Array.from({ length: end - start }, (_, at) => start + at),
          ),
        );
        expect(batch.imageSlices.map(({ start, end }) => end - start)).toEqual(
          samples.flatMap(({ grids }) => grids.map(({ rows, cols }) => imageTokens(rows, cols))),
        );
        const targets = rowsFrom(0, rows).map((row) => {
          const last = ends.has(row);
          return last || inPicture.has(row + 1) ? IGNORE : batch.inputIds[row + 1];
        });
        expect(Array.from(batch.targets)).toEqual(targets);
        expect([...inPicture].filter((row) => batch.inputIds[row] !== 0)).toEqual([]);
        expect(batch.labelTokens).toBe(batch.targets.filter((target) => target !== IGNORE).length);
      }),
    );
  });
});

describe("the stream of micro-batches", () => {
  const samples = Array.from({ length: 30 }, (_, index) =>
    preparedOf(index, index % 3 === 0 ? [`${index}.png`] : []),
  );

  it("has every sample once, with many pictures, few, or none", async () => {
    for (const every of [1, 7, 100]) {
      const some = Array.from({ length: 60 }, (_, index) =>
        preparedOf(index, index % every === 1 ? ["a.png"] : []),
      );
      for (const packing of [
        { by: "samples", samples: 1 },
        { by: "tokens", tokens: 400 },
      ] as const) {
        const batches = await collect({ ...streamOf(some, new FakeLoader()), packing });
        const indices = batches.flatMap((batch) => batch.samples.map(({ index }) => index));
        expect(indices.sort((a, b) => a - b)).toEqual(some.map((_, index) => index));
      }
    }
  });

  it("goes on from the position of any micro-batch as if never stopped", async () => {
    for (const packing of [
      { by: "samples", samples: 4 },
      { by: "tokens", tokens: 700 },
    ] as const) {
      const options = () => ({
        ...streamOf(samples, new FakeLoader()),
        packing,
        sampler: shuffledOrder(30, 3),
        draws: 75,
      });
      const whole = await collect(options());
      expect(whole.flatMap((batch) => batch.samples).length).toBe(75);
      for (const stop of [1, 3, whole.length - 1]) {
        const position = JSON.parse(JSON.stringify(whole[stop - 1]?.position));
        expect(await collect(options(), position)).toEqual(whole.slice(stop));
      }
    }
  });

  it("loads ahead of the step, so that a slow step need not wait, and no more pictures than it may", async () => {
    const loader = new FakeLoader(5);
    const shown = Array.from({ length: 30 }, (_, index) => preparedOf(index, [`${index}.png`]));
    let taken = 0;
    for await (const _ of createBatches({ ...streamOf(shown, loader), picturesAhead: 3 })) {
      taken++;
      expect(loader.started - taken).toBeGreaterThanOrEqual(Math.min(1, shown.length - taken));
      expect(loader.started - taken).toBeLessThanOrEqual(3);
    }
    expect(taken).toBe(30);
    expect(loader.started).toBe(30);
  });

  it("loads a picture once for all samples of a micro-batch that show it", async () => {
    const loader = new FakeLoader();
    const pages = [preparedOf(0, ["page.png"]), preparedOf(1, ["page.png"]), preparedOf(2, ["other.png"])];
    const [batch] = await collect({ ...streamOf(pages, loader), packing: { by: "samples", samples: 3 } });
    expect(loader.started).toBe(2);
    expect(batch?.images.length).toBe(2);
    expect(batch?.imageSlices.map(({ image }) => image)).toEqual([0, 0, 1]);
  });

  it("stops at a picture that can't be decoded, with the sample's name", async () => {
    const broken = [preparedOf(0), preparedOf(1), preparedOf(2, ["broken.png"])];
    const stream = collect(streamOf(broken, new FakeLoader()));
    await expect(stream).rejects.toThrow(
      /^data\.json: sample 2 shows a picture that can't be used\. broken\.png: /,
    );
  });

  it("leaves such samples out when asked to, and names each", async () => {
    const broken = [
      preparedOf(0, ["broken.png"]),
      preparedOf(1),
      preparedOf(2, ["broken.png"]),
      preparedOf(3),
    ];
    const skipped: number[] = [];
    const onBadPicture: BatchOptions["onBadPicture"] = ({ index }) => skipped.push(index);
    const batches = await collect({ ...streamOf(broken, new FakeLoader()), onBadPicture });
    expect(batches.map((batch) => batch.samples.map(({ index }) => index))).toEqual([[1], [3]]);
    expect(skipped).toEqual([0, 2]);
  });

  it("stops at a picture that changed its size since it was measured", async () => {
    const changed = { ...preparedOf(0, ["page.png"]), grids: [hdGrid(100, 100, 4)] };
    await expect(collect(streamOf([changed], new FakeLoader()))).rejects.toThrow(
      "page.png has changed its size: 100 x 100 pixels at the start, now 336 x 336.",
    );
  });

  it("throws a defect of a loader on as it is", async () => {
    const loader = { load: () => Promise.reject(new TypeError("a defect")) };
    await expect(collect(streamOf([preparedOf(0, ["a.png"])], loader))).rejects.toThrow(TypeError);
  });
});

/** Pictures of one tile after a while; broken.png fails. */
class FakeLoader implements PictureLoader {
  started = 0;
  readonly #delayMs: number;

  constructor(delayMs = 0) {
    this.#delayMs = delayMs;
  }

  async load(path: string): Promise<LoadedPicture> {
    this.started++;
    await setTimeout(this.#delayMs);
    if (path === "broken.png")
      throw new UserError("broken.png: its end is missing.", { fix: "Save it again." });
    return picture(1, 1);
  }
}

function streamOf(samples: PreparedSample[], pictures: PictureLoader): BatchOptions {
  return {
    samples,
    pictures,
    sampler: fileOrder(samples.length),
    packing: { by: "samples", samples: 1 },
    draws: samples.length,
  };
}

async function collect(options: BatchOptions, from = START): Promise<MicroBatch[]> {
  const batches: MicroBatch[] = [];
  for await (const batch of createBatches(options, from)) batches.push(batch);
  return batches;
}

function picture(rows: number, cols: number): LoadedPicture {
  const source = { width: 336 * cols, height: 336 * rows };
  const arrays = { pixels: new Uint8Array(), globalView: new Float32Array() };
  return { ...tileGrid(rows, cols), source, ...arrays };
}

/** Ids in which a run of -100 is one picture. */
function encodedOf(ids: number[], labels: number[]) {
  const kept = ids.map((id, row) => id !== -100 || ids[row - 1] !== -100);
  return {
    source: { file: "data.json", index: 0 },
    inputIds: Int32Array.from(ids.map((id) => (id === -100 ? IMAGE_SLOT : id)).filter((_, row) => kept[row])),
    labels: Int32Array.from(
      labels.map((label) => (label === IMAGE_SLOT ? IGNORE : label)).filter((_, row) => kept[row]),
    ),
    images: [],
  };
}

function preparedOf(index: number, images: string[] = []): PreparedSample {
  const grids = images.map(() => hdGrid(336, 336, 1));
  const inputIds = Int32Array.from([
    1,
    ...images.map(() => IMAGE_SLOT),
    ...Array(3 + (index % 7)).fill(9),
    2,
  ]);
  return {
    source: { file: "data.json", index },
    inputIds,
    labels: inputIds.map((id) => (id === 2 ? 2 : IGNORE)),
    images: images.map((path) => ({ path, limit: 1 })),
    grids,
    tokens: inputIds.length - images.length + grids.reduce((sum, { tokens }) => sum + tokens, 0),
  };
}

/** The official rows of a golden case; pictures have id 0 there. */
function readCase(name: string) {
  const fixture = readFixture(golden(`tiny_cases/${name}.safetensors`));
  const [ids, labels, mask] = ["input_ids", "labels", "im_mask"].map((tensor) => integers(fixture, tensor));
  if (!ids || !labels || !mask) throw new Error(`${name} lacks a tensor`);
  const targets = [...labels.slice(1), IGNORE];
  return {
    inputIds: ids.map((id) => Math.max(0, id)),
    targets,
    imageRows: rowsFrom(0, ids.length).filter((row) => mask[row] === 1),
    labelTokens: targets.filter((target) => target !== IGNORE).length,
  };
}

function rowsFrom(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, index) => start + index);
}
