/**
 * Writes plain values as a pickle of protocol 4, which Python's pickle.load reads without importing anything.
 * Format: CPython's Lib/pickletools.py.
 */

/** A value that a pickle can hold. Maps and objects become dicts, arrays lists, whole numbers ints. */
export type Picklable =
  | null
  | boolean
  | number
  | string
  | readonly Picklable[]
  | { readonly [key: string]: Picklable };

const MARK = 0x28;
const STOP = 0x2e;
const MEMOIZE = 0x94;
/**
 * Items of a list that are appended at a time, as Python does. PyTorch's viewer passes them as arguments of
 * one call, of which a browser allows some 100,000. Even, because a dict's items are pairs.
 */
const BATCH_ITEMS = 1000;
/** Strings up to this length are written once and recalled afterwards. */
const MOST_SHARED_LENGTH = 200;

/**
 * Returns the pickle of a value. An array or object that occurs several times is written once, and is the
 * same object in Python.
 */
export function pickled(value: Picklable): Buffer {
  const writer = new Writer();
  writer.bytes(0x80, 4); // PROTO 4
  writer.value(value);
  writer.bytes(STOP);
  return writer.finished();
}

class Writer {
  #buffer = Buffer.allocUnsafe(1 << 16);
  #length = 0;
  /** Positions in the reader's memo. */
  readonly #memo = new Map<unknown, number>();

  finished(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  bytes(...values: number[]): void {
    this.#reserve(values.length);
    for (const value of values) this.#buffer[this.#length++] = value;
  }

  value(value: Picklable): void {
    if (value === null)
      this.bytes(0x4e); // NONE
    else if (typeof value === "boolean")
      this.bytes(value ? 0x88 : 0x89); // NEWTRUE, NEWFALSE
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "string") this.#string(value);
    else this.#container(value);
  }

  #number(value: number): void {
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      this.#reserve(9);
      this.#buffer[this.#length++] = 0x47; // BINFLOAT
      this.#length = this.#buffer.writeDoubleBE(value, this.#length);
    } else if (value >= 0 && value < 2 ** 8)
      this.bytes(0x4b, value); // BININT1
    else if (value >= -(2 ** 31) && value < 2 ** 31) {
      this.#reserve(5);
      this.#buffer[this.#length++] = 0x4a; // BININT
      this.#length = this.#buffer.writeInt32LE(value, this.#length);
    } else {
      this.#reserve(10);
      this.#buffer[this.#length++] = 0x8a; // LONG1
      this.#buffer[this.#length++] = 8;
      this.#length = this.#buffer.writeBigInt64LE(BigInt(value), this.#length);
    }
  }

  #string(text: string): void {
    if (this.#recall(text)) return;
    const encoded = Buffer.from(text, "utf8");
    if (encoded.length < 2 ** 8)
      this.bytes(0x8c, encoded.length); // SHORT_BINUNICODE
    else {
      this.#reserve(5);
      this.#buffer[this.#length++] = 0x58; // BINUNICODE
      this.#length = this.#buffer.writeUInt32LE(encoded.length, this.#length);
    }
    this.#reserve(encoded.length);
    this.#length += encoded.copy(this.#buffer, this.#length);
    if (text.length <= MOST_SHARED_LENGTH) this.#remember(text);
  }

  #container(value: readonly Picklable[] | { readonly [key: string]: Picklable }): void {
    if (this.#recall(value)) return;
    const isList = Array.isArray(value);
    this.bytes(isList ? 0x5d : 0x7d); // EMPTY_LIST, EMPTY_DICT
    this.#remember(value);
    const items = isList ? value : Object.entries(value).flat();
    for (let at = 0; at < items.length; at += BATCH_ITEMS) {
      this.bytes(MARK);
      for (const item of items.slice(at, at + BATCH_ITEMS)) this.value(item);
      this.bytes(isList ? 0x65 : 0x75); // APPENDS, SETITEMS
    }
  }

  #recall(value: unknown): boolean {
    const at = this.#memo.get(value);
    if (at === undefined) return false;
    if (at < 2 ** 8)
      this.bytes(0x68, at); // BINGET
    else {
      this.#reserve(5);
      this.#buffer[this.#length++] = 0x6a; // LONG_BINGET
      this.#length = this.#buffer.writeUInt32LE(at, this.#length);
    }
    return true;
  }

  #remember(value: unknown): void {
    this.bytes(MEMOIZE);
    this.#memo.set(value, this.#memo.size);
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(2 * this.#buffer.length, this.#length + bytes));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }
}
