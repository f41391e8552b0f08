/** Files in memory by mapping: weights are read from the disk's cache when an operator first touches them. */
import { messageOf, UserError } from "../errors.ts";
import { type DType, dtypeCode } from "./dtypes.ts";
import { type Handle, native } from "./native.ts";
import { Tensor } from "./tensor.ts";

/** A file mapped for reading; what ops write in place stays in memory. The file must not be cut short meanwhile. */
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

  /** A copy of a range; throws where it reaches outside of the file. */
  bytes(offsetBytes: number, lengthBytes: number): Uint8Array<ArrayBuffer> {
    return native.mappedBytes(this.file, offsetBytes, lengthBytes);
  }

  /**
   * A cpu tensor on the mapping itself, which it keeps alive; allocators don't count it. Elements that lie across their
   * alignment are copied. Throws where the range reaches outside of the file.
   */
  tensor(offsetBytes: number, dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(native.mappedTensor(this.file, offsetBytes, dtypeCode(dtype), shape));
  }

  /** Gives the mapping up; tensors made from it live on. */
  close(): void {
    native.unmapFile(this.file);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Maps a file; throws UserError where it can't be opened. */
export function mapFile(path: string): MappedFile {
  return new MappedFile(path);
}
