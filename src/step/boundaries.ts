/**
 * Boundary activations: the inputs of layers, waiting for the backward on the device, on the host, or
 * nowhere. Copies to and from the host run beside the computation until something needs them.
 */
import type { RowSource, Rows } from "../nn/rows.ts";
import { rowCount, rowSource, rowsOf } from "../nn/rows.ts";
import { emptyOnHost, type PendingCopy, startCopy } from "../torch/copies.ts";
import { empty } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import type { Device } from "../torch/dtypes.ts";
import type { Owner } from "../torch/owner.ts";
import { keep, scope, type Tensor } from "../torch/tensor.ts";
import { countExposed, countedOnce, isAbridging } from "../torch/trace.ts";
import type { LayerPolicy } from "./policy.ts";

export type Boundary = { at: "device"; hidden: Tensor } | HostBoundary | { at: "none" };

interface HostBoundary {
  at: "host";
  hidden: Tensor;
  /** On its way there: what it is copied from must not be written to. */
  saving?: PendingCopy | undefined;
  /** On its way back, ahead of its use. */
  coming?: { hidden: Tensor; copy: PendingCopy } | undefined;
}

/**
 * Keeps a copy of a layer's input, (T, C), where the policy wants it. Call settleBoundary before `hidden` is
 * written to.
 */
export function saveBoundary(hidden: Tensor, place: LayerPolicy["boundary"], owner: Owner): Boundary {
  if (place === "none") return { at: "none" };
  return category("boundaryActivations", (): Boundary => {
    if (place === "device") return { at: place, hidden: owner.own(hidden.clone()) };
    const copy = owner.own(emptyOnHost(hidden.shape, hidden));
    return { at: place, hidden: copy, saving: owner.own(startCopy(copy, hidden)) };
  });
}

/** Waits until a boundary is whole, so that the tensor it was copied from may be written to. */
export function settleBoundary(boundary: Boundary, owner: Owner): void {
  if (boundary.at !== "host" || !boundary.saving) return;
  const { saving } = boundary;
  boundary.saving = undefined;
  saving.wait();
  owner.free(saving);
}

/** Starts copying a boundary from the host, for copyBoundary. Does nothing if it is elsewhere. */
export function fetchBoundary(boundary: Boundary, device: Device, owner: Owner): void {
  if (boundary.at !== "host" || boundary.coming) return;
  settleBoundary(boundary, owner);
  const { shape, dtype } = boundary.hidden;
  const hidden = owner.own(empty(shape, { dtype, device }));
  boundary.coming = { hidden, copy: owner.own(startCopy(hidden, boundary.hidden)) };
}

/** A copy of the layer's input on the device, (T, C), the owner's. */
export function copyBoundary(boundary: Boundary, device: Device, owner: Owner): Tensor {
  if (boundary.at === "none") throw new Error("a layer without boundary activations cannot be restored from");
  if (boundary.at === "device") return owner.own(boundary.hidden.clone());
  if (!boundary.coming) {
    fetchBoundary(boundary, device, owner);
    countExposed();
  }
  const { hidden, copy } = boundary.coming!;
  boundary.coming = undefined;
  copy.wait();
  owner.free(copy);
  return hidden;
}

/**
 * Returns rows of the layer's input on the device. If it is on the host, a tile of rows is fetched while the
 * one before is in use; the open scope frees it.
 */
export function boundaryRows(
  boundary: Boundary,
  { device, tileTokens, owner }: { device: Device; tileTokens: number; owner: Owner },
): RowSource & Disposable {
  if (boundary.at === "none")
    throw new Error("a layer without boundary activations was used before it was restored");
  const { hidden } = boundary;
  if (boundary.at === "device") return { ...rowSource(hidden), [Symbol.dispose]: () => {} };
  settleBoundary(boundary, owner);
  return new FetchedRows(hidden, device, tileTokens);
}

/** Waits until it is whole, then frees it. */
export function freeBoundary(boundary: Boundary, owner: Owner): void {
  if (boundary.at === "none") return;
  settleBoundary(boundary, owner);
  owner.free(boundary.hidden);
}

/** The tile in use belongs to the scope that asked for it; the one ahead is held here. */
class FetchedRows implements RowSource, Disposable {
  readonly tokens: number;
  readonly #hidden: Tensor;
  readonly #device: Device;
  readonly #tileTokens: number;
  #ahead: { rows: Rows; tile: Tensor; copy: PendingCopy } | undefined;

  constructor(hidden: Tensor, device: Device, tileTokens: number) {
    this.tokens = hidden.shape[0]!;
    this.#hidden = hidden;
    this.#device = device;
    this.#tileTokens = tileTokens;
  }

  rows(rows: Rows): Tensor {
    if (this.#ahead?.rows.start !== rows.start || this.#ahead.rows.end !== rows.end) {
      this[Symbol.dispose]();
      this.#start(rows);
      if (rows.start === 0) countedOnce(countExposed); // later tiles come ahead of their use
    }
    const { tile, copy } = this.#ahead!;
    this.#ahead = undefined;
    copy.wait();
    const fetched = rowsOf(tile, { start: 0, end: rowCount(rows) }); // the open scope's, as its memory from here on
    tile.dispose();
    const next = { start: rows.end, end: Math.min(this.tokens, rows.end + this.#tileTokens) };
    if (next.start === next.end) return fetched;
    if (isAbridging())
      this.#room(next); // which asks for tiles out of turn; the scope gives it back with this one
    else this.#start(next);
    return fetched;
  }

  [Symbol.dispose](): void {
    this.#ahead?.copy[Symbol.dispose]();
    this.#ahead?.tile.dispose();
    this.#ahead = undefined;
  }

  #start(rows: Rows): void {
    const tile = keep(this.#room(rows));
    this.#ahead = { rows, tile, copy: scope(() => startCopy(tile, rowsOf(this.#hidden, rows))) };
  }

  #room(rows: Rows): Tensor {
    const { shape, dtype } = this.#hidden;
    return empty([rowCount(rows), shape[1]!], { dtype, device: this.#device });
  }
}
