/** Inputs of any sizes for the operator cases. */
import { arange, full, zeros } from "../../src/torch/create.ts";
import type { Device, DType } from "../../src/torch/dtypes.ts";
import type { Tensor } from "../../src/torch/tensor.ts";

export interface Sizes {
  rows: number;
  columns: number;
  inner: number;
  heads: number;
  /** Of a head; columns where a case needs one. */
  headDim: number;
  dtype: DType;
  device: Device;
}

/** Makes inputs on the device of the sizes. Contents never matter: only that indexes stay inside. */
export class Inputs {
  readonly sizes: Sizes;

  constructor(sizes: Sizes) {
    this.sizes = sizes;
  }

  /** Floats of one half; (rows, columns) unless said. */
  x(...shape: number[]): Tensor {
    return full(this.shapeOr(shape), 0.5, this.sizes);
  }

  /** Floats that differ, for ops that sort. */
  ramp(): Tensor {
    const { rows, columns, device, dtype } = this.sizes;
    return arange(rows * columns, { device, dtype }).view([rows, columns]);
  }

  /** Zeros, as indexes. */
  index(...shape: number[]): Tensor {
    return zeros(shape, { dtype: "int64", device: this.sizes.device });
  }

  flags(...shape: number[]): Tensor {
    return zeros(this.shapeOr(shape), { dtype: "bool", device: this.sizes.device });
  }

  ints(...shape: number[]): Tensor {
    return zeros(this.shapeOr(shape), { dtype: "int32", device: this.sizes.device });
  }

  /** A (columns, rows) tensor seen as (rows, columns). */
  turned(): Tensor {
    return this.x(this.sizes.columns, this.sizes.rows).t();
  }

  /** Columns of a wider tensor. */
  slice(): Tensor {
    return this.x(this.sizes.rows, this.sizes.columns + 3).narrow(1, 1, this.sizes.columns);
  }

  /** Query, key or value as attention takes them: (1, H, rows, D), a view of (1, rows, H, D). */
  attention(heads = this.sizes.heads, rows = this.sizes.rows): Tensor {
    return this.x(1, rows, heads, this.sizes.headDim).transpose(1, 2);
  }

  private shapeOr(shape: number[]): number[] {
    return shape.length > 0 ? shape : [this.sizes.rows, this.sizes.columns];
  }
}
