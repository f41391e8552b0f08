/**
 * Loads this rank's shares of a base. Each part is laid out first, without its data. Then those weights are
 * read of which the rank holds something: from the mapped file, only what it holds; a matrix that is
 * quantised while it is loaded, in whole, by each rank that holds a piece of it.
 */
import { denseMatrix, type FrozenMatrix } from "../../nn/frozen/frozen.ts";
import type { Nf4Matrix, Room } from "../../nn/frozen/nf4.ts";
import { emptyQuantized } from "../../nn/frozen/quantized.ts";
import { fromArray } from "../../torch/create.ts";
import { type Device, type DType, dtypeBytes } from "../../torch/dtypes.ts";
import { ALONE, type Peers } from "../../torch/peers/peers.ts";
import { dispose, keep, scope, Tensor } from "../../torch/tensor.ts";
import type { PlacedReader } from "../family.ts";
import type { Base } from "../precision/bases.ts";
import { Gathering, type PartName } from "./gathering.ts";
import { outlineOf, type Share, shareOf } from "./share.ts";

/** The parts that ranks hold shares of. */
export interface SharedBase {
  gathering: Gathering;
  shares: Map<PartName, Share>;
  /** All NF4 matrices. The offset is NaN in those of which this rank has read nothing. */
  nf4: Pick<Nf4Matrix, "offset">[];
}

/** Reads weights for shares. */
export interface ShareReader {
  /** Returns what a weight will be, before it is read. */
  outlined(name: string, base: Base | undefined): { shape: readonly number[]; base: Base | undefined };
  dtype: DType;
  /** Returns a tensor's data, in any dtype and on any device: at best the mapped file itself. */
  tensor(name: string): Tensor;
  /**
   * Returns a matrix's data: of one that is stored as wanted, at best the mapped file itself; of another one,
   * what has been made of it on the device.
   */
  matrix(name: string, base: Base | undefined, device: Device): FrozenMatrix;
}

export class Sharing {
  readonly #shares = new Map<PartName, Share>();
  readonly #peers: Peers;
  readonly #device: Device;
  readonly #reader: ShareReader;

  constructor(reader: ShareReader, device: Device, peers: Peers = ALONE) {
    this.#reader = reader;
    this.#device = device;
    this.#peers = peers;
  }

  /** Loads this rank's share of a part. Returns the part's outline. */
  add<T>(name: PartName, assemble: (reader: PlacedReader) => T): T {
    const { share, outline } = scope(() => {
      const weights = new OutlinedWeights(this.#reader, this.#device);
      try {
        const part = assemble({
          tensor: (tensor) => weights.tensor(tensor),
          matrix: (matrix, base) => weights.matrix(matrix, base),
        });
        return shareOf(part, this.#peers, this.#device, (x) => weights.dataOf(x));
      } finally {
        weights[Symbol.dispose]();
      }
    });
    this.#shares.set(name, share);
    return outline;
  }

  /** Gives a part that was added a second name. */
  addAgain(name: PartName, as: PartName): void {
    const share = this.#shares.get(as);
    if (share) this.#shares.set(name, share);
  }

  /** Returns the shares of all parts that were added; undefined if there are none. */
  end(parts: unknown): SharedBase | undefined {
    if (this.#shares.size === 0) return undefined;
    const gathering = new Gathering(this.#peers, this.#shares, this.#device);
    return { gathering, shares: this.#shares, nf4: nf4In(parts) };
  }
}

/**
 * Has the ranks tell each other the numbers of matrices that some of them have not read. Every rank calls
 * this after it has loaded its shares.
 */
export async function completeShares({ shared }: { shared?: SharedBase | undefined }): Promise<void> {
  if (!shared) return;
  const { peers } = shared.gathering;
  const known = shared.nf4.map(({ offset }) => (Number.isNaN(offset) ? null : offset));
  const told = (await peers.tell("offsets of the shared base's NF4 matrices", known)) as (number | null)[][];
  shared.nf4.forEach((matrix, at) => {
    matrix.offset = told.map((offsets) => offsets[at]).find((offset) => typeof offset === "number") ?? 0;
  });
}

function nf4In(value: unknown, found: Pick<Nf4Matrix, "offset">[] = []): Pick<Nf4Matrix, "offset">[] {
  if (typeof value !== "object" || value === null || value instanceof Tensor) return found;
  if ("precision" in value && value.precision === "nf4") found.push(value as Nf4Matrix);
  else for (const part of Object.values(value)) nf4In(part, found);
  return found;
}

/** Elements of int64, of which each outlined weight has one that tells which it is. */
const NUMBERED = 8;

/** Weights that are not read until their data are asked for. */
class OutlinedWeights implements Disposable {
  readonly #reader: ShareReader;
  readonly #device: Device;
  /** How the data of each outlined tensor are had. */
  readonly #loads: (() => Tensor)[] = [];
  /** The matrix that was loaded last; its tensors are asked for one after the other. */
  #last: { name: string; tensors: Tensor[] } | undefined;

  constructor(reader: ShareReader, device: Device) {
    this.#reader = reader;
    this.#device = device;
  }

  tensor(name: string): Tensor {
    const { dtype } = this.#reader;
    return this.#outline(this.#reader.outlined(name, undefined).shape, dtype, () =>
      this.#reader.tensor(name),
    );
  }

  matrix(name: string, wanted: Base | undefined): FrozenMatrix {
    const { shape, base } = this.#reader.outlined(name, wanted);
    let next = 0;
    const room: Room = (size, dtype) => {
      const index = next++;
      return this.#outline(size, dtype, () => this.#loaded(name, wanted, matrix)[index]!);
    };
    const matrix: FrozenMatrix =
      base && base !== "bf16"
        ? emptyQuantized([shape[0]!, shape[1]!], base, room)
        : denseMatrix(room(shape, this.#reader.dtype));
    if (matrix.precision === "nf4") {
      matrix.offset = Number.NaN;
      matrix.pairs = room(matrix.pairs.shape, matrix.pairs.dtype);
    }
    return matrix;
  }

  /** Returns the data of an outlined tensor; they belong to the open scope. */
  dataOf(x: Tensor): Tensor {
    const number = scope(() => {
      const bytes = dtypeBytes(x.dtype);
      return Number(
        x
          .asStrided([NUMBERED / bytes], [1])
          .viewDtype("int64")
          .toArray()[0],
      );
    });
    const load = this.#loads[number];
    if (!load) throw new Error("a tensor that is computed from others while it is loaded can't be shared");
    return load();
  }

  /** Frees what was loaded. */
  [Symbol.dispose](): void {
    dispose(this.#last?.tensors);
    this.#last = undefined;
  }

  #loaded(name: string, base: Base | undefined, outline: FrozenMatrix): Tensor[] {
    if (this.#last?.name !== name) {
      this[Symbol.dispose]();
      const matrix = keep(scope(() => this.#reader.matrix(name, base, this.#device)));
      if (outline.precision === "nf4" && matrix.precision === "nf4") outline.offset = matrix.offset;
      this.#last = { name, tensors: tensorsOf(matrix) };
    }
    return this.#last.tensors;
  }

  /** Returns a tensor of this shape that only tells which it is. */
  #outline(shape: readonly number[], dtype: DType, load: () => Tensor): Tensor {
    const number = this.#loads.push(load) - 1;
    return scope(() => {
      const device = this.#device === "meta" ? "meta" : "cpu";
      const numbered = fromArray(BigInt64Array.of(BigInt(number)), [1], { device }).viewDtype("uint8");
      return outlineOf(numbered, shape, dtype);
    });
  }
}

/** Returns a matrix's tensors as emptyQuantized asks for room for them. */
function tensorsOf(matrix: FrozenMatrix): Tensor[] {
  if (matrix.precision === "dense") return [matrix.weight];
  if (matrix.precision !== "nf4") return [matrix.codes, matrix.scales];
  const { codes, absmax, nestedAbsmax, nestedMap, pairs } = matrix;
  return [codes, absmax, nestedAbsmax, nestedMap, pairs];
}
