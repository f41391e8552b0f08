/** Keys and values of the tokens so far, of every layer, for generation. */
import { empty } from "../../torch/create.ts";
import type { Device, DType } from "../../torch/dtypes.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import type { ModelConfig } from "../family.ts";

/** Tokens by which a cache grows. */
export const CACHE_GROWTH_TOKENS = 256;

/** Keys and values of one layer, (G, tokens, D) each. Keys are rotated. */
export interface KeysAndValues {
  keys: Tensor;
  values: Tensor;
}

/**
 * Grows by CACHE_GROWTH_TOKENS at a time, up to the positions of the model; owns its tensors whatever scopes
 * are open. 2 * 2 * G * D bytes a token and layer in bfloat16.
 */
export class KvCache implements Disposable {
  #tokens = 0;
  #capacityTokens: number;
  readonly #mostTokens: number;
  readonly #layers: KeysAndValues[];

  constructor(
    { layers, kvHeads, headDim, maxPositions }: ModelConfig,
    { dtype, device, capacityTokens }: { dtype: DType; device: Device; capacityTokens: number },
  ) {
    this.#capacityTokens = capacityTokens;
    this.#mostTokens = maxPositions;
    const shape = [kvHeads, capacityTokens, headDim];
    const room = (): Tensor => empty(shape, { dtype, device });
    this.#layers = keep(
      scope(() => Array.from({ length: layers }, () => ({ keys: room(), values: room() }))),
    );
  }

  /** Tokens that every layer holds. */
  get tokens(): number {
    return this.#tokens;
  }

  /** Makes room for more tokens, before they are written. */
  reserve(moreTokens: number): void {
    const wantedTokens = this.#tokens + moreTokens;
    if (wantedTokens <= this.#capacityTokens) return;
    this.#grow(
      Math.max(wantedTokens, Math.min(this.#capacityTokens + CACHE_GROWTH_TOKENS, this.#mostTokens)),
    );
  }

  #grow(capacityTokens: number): void {
    this.#capacityTokens = capacityTokens;
    for (const layer of this.#layers) {
      layer.keys = this.#grown(layer.keys);
      layer.values = this.#grown(layer.values);
    }
  }

  /** Writes a layer's rows behind those it holds, for kv heads from firstHead on. keys, values: (t, G, D). */
  write(layer: number, firstHead: number, { keys, values }: KeysAndValues): void {
    const { keys: allKeys, values: allValues } = this.#layers[layer]!;
    scope(() => {
      for (const [all, rows] of [
        [allKeys, keys],
        [allValues, values],
      ] as const) {
        const [t, G] = rows.shape as [number, number];
        all.narrow(0, firstHead, G).narrow(1, this.#tokens, t).copy_(rows.transpose(0, 1));
      }
    });
  }

  /** Views of what a layer holds and of the newTokens written behind it: (G, tokens + newTokens, D). */
  read(layer: number, newTokens: number): KeysAndValues {
    const { keys, values } = this.#layers[layer]!;
    const tokens = this.#tokens + newTokens;
    return { keys: keys.narrow(1, 0, tokens), values: values.narrow(1, 0, tokens) };
  }

  /**
   * Grows as if rows had come one by one up to so many tokens, without their data: for plans. A plan stands
   * for shorter prompts too, which may grow to the last position from just below it.
   */
  skipTo(tokens: number): void {
    for (;;) {
      this.#tokens = Math.max(this.#tokens, Math.min(tokens, this.#capacityTokens));
      if (this.#tokens >= tokens) break;
      this.reserve(1);
    }
    if (this.#capacityTokens + CACHE_GROWTH_TOKENS <= this.#mostTokens) return;
    for (const _ of ["to just below it", "to it"]) this.#grow(this.#mostTokens);
  }

  /** Counts rows that every layer has had written. */
  advance(newTokens: number): void {
    this.#tokens += newTokens;
  }

  [Symbol.dispose](): void {
    dispose(this.#layers);
  }

  /** A larger copy; frees the tensor. (G, old capacity, D) -> (G, capacity, D) */
  #grown(rows: Tensor): Tensor {
    const [G, , D] = rows.shape as [number, number, number];
    const { dtype, device } = rows;
    const grown = keep(
      scope(() => {
        const larger = empty([G, this.#capacityTokens, D], { dtype, device });
        larger.narrow(1, 0, this.#tokens).copy_(rows.narrow(1, 0, this.#tokens));
        return larger;
      }),
    );
    dispose(rows);
    return grown;
  }
}
