/**
 * Features of pictures, in a pool of fixed size: each picture is encoded once, whatever adapter asks for it.
 * The oldest that no sequence uses are dropped when a new picture needs their room.
 */
import { deepstackLayers } from "../../models/deepstack.ts";
import type { Model } from "../../models/weights.ts";
import { type Rows, rowsOf } from "../../nn/rows.ts";
import { empty } from "../../torch/create.ts";
import { category } from "../../torch/device.ts";
import { dispose, keep, type Tensor } from "../../torch/tensor.ts";
import { Slots } from "./slots.ts";

/** The features of a picture; encoded: whether they have been computed. */
export interface Features {
  digest: string;
  rows: Rows;
  users: number;
  encoded: boolean;
}

export class FeaturePool implements Disposable {
  /** (F, (1 + L) * C): image tokens, then the features for each of the first L layers. */
  readonly #values: Tensor;
  readonly #slots: Slots;
  /** By digest; the longest unused first. */
  readonly #known = new Map<string, Features>();

  constructor({ config, dtype, device }: Pick<Model, "config" | "dtype" | "device">, rows: number) {
    const width = (1 + deepstackLayers(config)) * config.hidden;
    this.#values = category("visionFeatures", () => keep(empty([rows, width], { dtype, device })));
    this.#slots = new Slots(rows);
  }

  /** Returns the features of pictures, counted as used, with room for new ones; undefined without room. */
  take(pictures: readonly { digest: string; tokens: number }[]): Features[] | undefined {
    const taken: Features[] = [];
    for (const { digest, tokens } of pictures) {
      const features = this.#known.get(digest) ?? this.#roomFor(digest, tokens);
      if (!features) {
        this.release(taken);
        return undefined;
      }
      features.users++;
      this.#known.delete(digest);
      this.#known.set(digest, features);
      taken.push(features);
    }
    return taken;
  }

  /** Counts one user less. Features that were never computed are dropped with their last user. */
  release(features: readonly Features[]): void {
    for (const each of features) {
      each.users--;
      if (each.users === 0 && !each.encoded) this.#drop(each);
    }
  }

  /** Returns a view of some rows of a picture's features; rows: counted from the picture's first. */
  view({ rows: { start } }: Features, rows: Rows): Tensor {
    return this.rowsAt({ start: start + rows.start, end: start + rows.end });
  }

  /** Returns a view of rows of the pool. */
  rowsAt(rows: Rows): Tensor {
    return rowsOf(this.#values, rows);
  }

  [Symbol.dispose](): void {
    dispose(this.#values);
  }

  #roomFor(digest: string, tokens: number): Features | undefined {
    for (let rows = this.#slots.take(tokens); ; rows = this.#slots.take(tokens)) {
      if (rows) return { digest, rows, users: 0, encoded: false };
      const unused = [...this.#known.values()].find(({ users }) => users === 0);
      if (!unused) return undefined;
      this.#drop(unused);
    }
  }

  #drop(features: Features): void {
    this.#known.delete(features.digest);
    this.#slots.give(features.rows);
  }
}
