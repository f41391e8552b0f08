/** Inputs of any size for the operator cases. */
import { arange, full, zeros } from "../../src/torch/create.ts";
import type { Device, DType } from "../../src/torch/dtypes.ts";
import type { Tensor } from "../../src/torch/tensor.ts";

export interface Sizes {
  rows: number;
  columns: number;
  inner: number;
  heads: number;
  /** Features of a head; columns if a case needs them. */
  headDim: number;
  dtype: DType;
  device: Device;
}

/**
 * Creates inputs of the given sizes on the device. Contents never matter, except that indexes stay in range.
 */
export class Inputs {
  readonly sizes: Sizes;

  constructor(sizes: Sizes) {
    this.sizes = sizes;
  }

  /** Returns floats of one half; (rows, columns) by default. */
  x(...shape: number[]): Tensor {
    return full(this.shapeOr(shape), 0.5, this.sizes);
  }

  /** Returns floats that differ, for ops that sort. */
  ramp(): Tensor {
    const { rows, columns, device, dtype } = this.sizes;
    return arange(rows * columns, { device, dtype }).view([rows, columns]);
  }

  /** Returns zeros, used as indexes. */
  index(...shape: number[]): Tensor {
    return zeros(shape, { dtype: "int64", device: this.sizes.device });
  }

  flags(...shape: number[]): Tensor {
    return zeros(this.shapeOr(shape), { dtype: "bool", device: this.sizes.device });
  }

  ints(...shape: number[]): Tensor {
    return zeros(this.shapeOr(shape), { dtype: "int32", device: this.sizes.device });
  }

  /** Returns a (columns, rows) tensor viewed as (rows, columns). */
  turned(): Tensor {
    return this.x(this.sizes.columns, this.sizes.rows).t();
  }

  /** Returns columns of a wider tensor. */
  slice(): Tensor {
    return this.x(this.sizes.rows, this.sizes.columns + 3).narrow(1, 1, this.sizes.columns);
  }

  /** Returns query, key or value as attention takes them: (1, H, rows, D), a view of (1, rows, H, D). */
  attention(heads = this.sizes.heads, rows = this.sizes.rows): Tensor {
    return this.x(1, rows, heads, this.sizes.headDim).transpose(1, 2);
  }

  private shapeOr(shape: number[]): number[] {
    return shape.length > 0 ? shape : [this.sizes.rows, this.sizes.columns];
  }
}
