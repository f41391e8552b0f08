/** Memory-mapped files. Weights are read from the disk's cache when an operator first touches them. */
import { messageOf, UserError } from "../errors.ts";
import { type DType, dtypeCode } from "./dtypes.ts";
import { type Handle, native } from "./native.ts";
import { Tensor } from "./tensor.ts";

/**
 * A file mapped for reading. Operators that write in place change the memory, not the file. Do not truncate
 * the file while it is mapped.
 */
export class MappedFile implements Disposable {
  readonly path: string;
  readonly byteLength: number;
  private readonly file: Handle;

  constructor(path: string) {
    this.path = path;
    try {
      this.file = native.mapFile(path);
    } catch (error) {
      throw new UserError(messageOf(error), {
        fix: "Check that the file is there and may be read.",
        cause: error,
      });
    }
    this.byteLength = native.mappedLength(this.file);
  }

  /** Copies a range. Throws if the range exceeds the file. */
  bytes(offsetBytes: number, lengthBytes: number): Uint8Array<ArrayBuffer> {
    return native.mappedBytes(this.file, offsetBytes, lengthBytes);
  }

  /**
   * Returns a cpu tensor on the mapping itself, and keeps the mapping alive. Allocators do not count it. If
   * the elements are not aligned, they are copied. Throws if the range exceeds the file.
   */
  tensor(offsetBytes: number, dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(native.mappedTensor(this.file, offsetBytes, dtypeCode(dtype), shape));
  }

  /** Unmaps the file as soon as no tensor needs the mapping. Tensors made from it stay valid. */
  close(): void {
    native.unmapFile(this.file);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Maps a file. Throws UserError if it can't be opened. */
export function mapFile(path: string): MappedFile {
  return new MappedFile(path);
}
