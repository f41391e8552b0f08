/** Reads the golden cases of a family that transformers has, as micro-batches and numbers. */
import { existsSync, readFileSync } from "node:fs";
import type { PictureLayout } from "../../src/data/pictures/form.ts";
import { IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { START } from "../../src/data/stream/packing.ts";
import { pictureFormOf } from "../../src/models/families.ts";
import type { ModelConfig } from "../../src/models/family.ts";
import type { Lora } from "../../src/models/lora.ts";
import { type Fixture, integers, readFixture } from "./fixtures.ts";
import { golden } from "./shared.ts";

export interface FamilyCase {
  name: string;
  /** The checkpoint, if the family has several. */
  variant?: string;
  lengths: number[];
  images: { file: string; tokens: number }[];
  loss: number;
  lora: { loss: number; grad_norm: number };
}

/** The golden data of one family. */
export interface GoldenFamily {
  cases: FamilyCase[];
  fixtures(file: string): Record<string, Fixture>;
  has(file: string): boolean;
  /** Returns a case's micro-batch: its samples packed without padding. */
  batch(name: string, config: ModelConfig): Promise<MicroBatch>;
  /** Returns a picture of a file in a folder of the family. */
  picture(path: string, config: ModelConfig): Promise<PictureLayout>;
}

/** Opens the data of a family; imageToken: the id that stands for tokens of pictures. */
export function goldenFamily(folder: string, imageToken: number): GoldenFamily {
  const manifest = JSON.parse(readFileSync(golden(`${folder}/cases/manifest.json`), "utf8")) as {
    cases: FamilyCase[];
  };
  const fixtures = (file: string): Record<string, Fixture> => readFixture(golden(`${folder}/${file}`));
  const picture = (path: string, config: ModelConfig): Promise<PictureLayout> => {
    const form = pictureFormOf(config);
    return form.load(golden(`${folder}/${path}`), form.limit.default, { compat: "official" });
  };
  return {
    cases: manifest.cases,
    fixtures,
    has: (file) => existsSync(golden(`${folder}/${file}`)),
    picture,
    async batch(name, config) {
      const { lengths, images } = manifest.cases.find((known) => known.name === name)!;
      const pictures = await Promise.all(images.map(({ file }) => picture(`cases/${file}`, config)));
      const given = fixtures(`cases/${name}.safetensors`);
      const [ids, labels] = [integers(given, "input_ids"), integers(given, "labels")];
      const width = given.input_ids!.shape[1]!;
      let next = 0;
      const samples = lengths.map((length, index) => {
        const cut = (values: number[]): number[] => values.slice(index * width, index * width + length);
        const slots = withSlots(cut(ids), cut(labels), imageToken);
        const own = pictures.slice(next, next + slots.pictures);
        next += slots.pictures;
        const sample = {
          ...{ source: { file: name, index }, inputIds: slots.ids, labels: slots.labels },
          images: own.map(() => ({ path: "", limit: 0 })),
        };
        return { sample, images: own };
      });
      return { ...layoutBatch(samples), epoch: 0, position: START } as MicroBatch;
    },
  };
}

/** Puts one slot where all tokens of a picture stand. */
export function withSlots(
  ids: readonly number[],
  labels: readonly number[],
  imageToken: number,
): { ids: Int32Array; labels: Int32Array; pictures: number } {
  const kept = [...ids.keys()].filter((at) => ids[at] !== imageToken || ids[at - 1] !== imageToken);
  const slots = kept.map((at) => (ids[at] === imageToken ? IMAGE_SLOT : ids[at]!));
  return {
    ids: Int32Array.from(slots),
    labels: Int32Array.from(kept, (at) => labels[at]!),
    pictures: slots.filter((id) => id === IMAGE_SLOT).length,
  };
}

/** Returns a gradient by its PEFT key. */
export function gradientOf({ modules }: Lora, key: string): Float32Array {
  const [, name, factor] = /(layers\..*)\.lora_([AB])\./.exec(key)!;
  const module = modules.get(name!)!;
  return (factor === "A" ? module.a.gradient! : module.b.gradient!).toFloat32Array();
}

export function relativeL2(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, not ${expected.length}`);
  let [difference, norm] = [0, 0];
  for (let index = 0; index < actual.length; index++) {
    difference += (actual[index]! - expected[index]!) ** 2;
    norm += expected[index]! ** 2;
  }
  return Math.sqrt(difference / norm);
}

/** Returns a fixture's values as numbers. */
export function numbersOf({ data }: Fixture): number[] {
  return Array.from(data as ArrayLike<number | bigint>, Number);
}
