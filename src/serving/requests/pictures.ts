/**
 * Brings the pictures of prompts into the pool of features: decoded by the picture workers, then encoded, one
 * batch of tiles at a time between passes.
 */
import { isSameLayout, type LoadedPicture } from "../../data/pictures/form.ts";
import { pictureName } from "../../data/pictures/source.ts";
import type { PictureLoader } from "../../data/stream/batches.ts";
import { UserError } from "../../errors.ts";
import { partsOfFeatures } from "../../models/deepstack.ts";
import type { PictureWeights } from "../../models/family.ts";
import { placeImage_ } from "../../models/inputRows.ts";
import { fetchPart } from "../../models/parts.ts";
import type { Fetch } from "../../models/places.ts";
import type { Model } from "../../models/weights.ts";
import { type Rows, rowCount } from "../../nn/rows.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import type { FeaturePool, Features } from "../memory/featurePool.ts";
import type { PromptPicture } from "./prompt.ts";
import { partOf, type Sequence } from "./sequence.ts";

/** Prompts whose pictures are decoded ahead; each picture takes about 0.35 MB a tile until it is encoded. */
const PROMPTS_AHEAD = 3;

/** A picture that is being decoded if it has neither image nor error. */
interface Load {
  image?: LoadedPicture;
  error?: UserError;
}

interface Encoding {
  features: Features;
  steps: Generator<unknown, void>;
  /** Views of the features. */
  held: Tensor[];
}

export interface PictureOptions {
  model: Model;
  features: FeaturePool;
  loader: PictureLoader;
  visionBatchTiles: number;
  /** Called when a picture was decoded, or failed to be. */
  onLoaded: () => void;
}

export class Pictures implements Disposable {
  readonly #options: PictureOptions;
  readonly #loads = new Map<string, Load>();
  #encoding: Encoding | undefined;
  #vision: Fetch<PictureWeights> | undefined;

  constructor(options: PictureOptions) {
    this.#options = options;
  }

  /** Makes room for the pictures of the first prompts, and has them decoded. */
  prepare(prompts: readonly Sequence[]): void {
    let ahead = 0;
    for (const sequence of prompts) {
      if (!this.#hasRoom(sequence)) return;
      const missing = [...sequence.features!].filter(([, { encoded }]) => !encoded);
      if (missing.length > 0 && ++ahead > PROMPTS_AHEAD) return;
      for (const [index] of missing) this.#load(sequence.prompt.pictures[index]!);
    }
  }

  /** Encodes a batch of tiles. Returns false if no picture is ready to be encoded. */
  encodeBatch(prompts: readonly Sequence[]): boolean {
    this.#encoding ??= this.#begin(prompts);
    const encoding = this.#encoding;
    if (!encoding) {
      if (!prompts.some(hasMissing)) this.#freeVision();
      return false;
    }
    const { done } = encoding.steps.next();
    if (!done) return true;
    encoding.features.encoded = true;
    this.#loads.delete(encoding.features.digest);
    this.#stop();
    return true;
  }

  /** Returns why a prompt's pictures can't be decoded; undefined if they can, as far as known. */
  errorOf({ features }: Sequence): UserError | undefined {
    for (const { digest } of features?.values() ?? []) {
      const error = this.#loads.get(digest)?.error;
      if (error) return error;
    }
    return undefined;
  }

  /** Returns how many of a prompt's next rows have all their pictures encoded. */
  readyRows(sequence: Sequence, mostRows: number): number {
    const rows = { start: sequence.position, end: sequence.position + mostRows };
    for (const [index, { rows: own }] of sequence.prompt.pictures.entries()) {
      if (!partOf(own, rows) || sequence.features?.get(index)?.encoded) continue;
      return Math.max(0, own.start - rows.start);
    }
    return mostRows;
  }

  /** Returns views of the features in some rows of a prompt; the open scope owns them. */
  featuresIn({ prompt, features }: Sequence, rows: Rows): { rows: Rows; values: Tensor }[] {
    return prompt.pictures.flatMap(({ rows: own }, index) => {
      const part = partOf(own, rows);
      if (!part) return [];
      const start = own.start + part.start - rows.start;
      const values = this.#options.features.view(features!.get(index)!, part);
      return { rows: { start, end: start + rowCount(part) }, values };
    });
  }

  /** Frees what a sequence held of pictures. */
  release(sequence: Sequence): void {
    const held = [...(sequence.features?.values() ?? [])];
    sequence.features = undefined;
    this.#options.features.release(held);
    for (const { users, encoded, digest } of held) if (users === 0 && !encoded) this.#loads.delete(digest);
    if (this.#encoding?.features.users === 0) this.#stop();
  }

  [Symbol.dispose](): void {
    this.#stop();
    this.#freeVision();
    this.#loads.clear();
  }

  #hasRoom(sequence: Sequence): boolean {
    if (sequence.features) return true;
    const left = sequence.picturesLeft();
    const wanted = left.map(({ picture: { digest, layout } }) => ({ digest, tokens: layout.tokens }));
    const taken = this.#options.features.take(wanted);
    sequence.features = taken && new Map(left.map(({ index }, at) => [index, taken[at]!]));
    return taken !== undefined;
  }

  #load(picture: PromptPicture): void {
    if (this.#loads.has(picture.digest)) return;
    const load: Load = {};
    this.#loads.set(picture.digest, load);
    const { loader, onLoaded } = this.#options;
    void loader
      .load(picture.path, picture.limit)
      .then(
        (image) => {
          if (isSameLayout(image, picture.layout)) load.image = image;
          else load.error = changed(picture);
        },
        (error) => {
          load.error = error instanceof UserError ? error : undecodable(picture, error);
        },
      )
      .then(onLoaded);
  }

  #begin(prompts: readonly Sequence[]): Encoding | undefined {
    for (const { features } of prompts) {
      for (const each of features?.values() ?? []) {
        const image = each.encoded ? undefined : this.#loads.get(each.digest)?.image;
        if (image) return this.#encode(each, image);
      }
    }
    return undefined;
  }

  #encode(features: Features, image: LoadedPicture): Encoding {
    const { model, visionBatchTiles, features: all } = this.#options;
    this.#vision ??= fetchPart(model, "vision");
    const ready = { ...model, vision: this.#vision.wait() };
    const rows = keep(scope(() => all.view(features, { start: 0, end: rowCount(features.rows) })));
    const [tokens, ...deepstack] = partsOfFeatures(rows, model);
    const steps = placeImage_(tokens, ready, image, visionBatchTiles, { deepstack });
    return { features, held: [rows, tokens, ...deepstack], steps };
  }

  #stop(): void {
    this.#encoding?.steps.return();
    dispose(this.#encoding?.held);
    this.#encoding = undefined;
  }

  #freeVision(): void {
    this.#vision?.[Symbol.dispose]();
    this.#vision = undefined;
  }
}

function hasMissing({ features }: Sequence): boolean {
  return [...(features?.values() ?? [])].some(({ encoded }) => !encoded);
}

function changed({ path }: PromptPicture): UserError {
  return new UserError(`${pictureName(path)} has changed its size since the request came.`, {
    fix: "Send the request again.",
  });
}

function undecodable({ path }: PromptPicture, cause: unknown): UserError {
  return new UserError(`${pictureName(path)} can't be decoded.`, { fix: "Send another picture.", cause });
}
