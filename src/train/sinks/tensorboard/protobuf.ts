/** Writes messages of Protocol Buffers, field by field. Source: protobuf.dev/programming-guides/encoding. */

/** Bytes of a field, or of several in a row. */
export type Fields = Uint8Array;

const [VARINT, FIXED64, LENGTH, FIXED32] = [0, 1, 2, 5] as const;

/** Joins fields to a message. */
export function message(...fields: readonly (Fields | undefined)[]): Fields {
  return Buffer.concat(fields.filter((field) => field !== undefined));
}

/** Writes an int32, int64 or enum that is not negative. */
export function integer(field: number, value: number): Fields {
  return message(varint(field * 8 + VARINT), varint(value));
}

export function double(field: number, value: number): Fields {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return message(varint(field * 8 + FIXED64), bytes);
}

export function float(field: number, value: number): Fields {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return message(varint(field * 8 + FIXED32), bytes);
}

/** Writes a string, bytes, or a message within the message. */
export function nested(field: number, value: string | Uint8Array): Fields {
  const bytes = typeof value === "string" ? Buffer.from(value, "utf8") : value;
  return message(varint(field * 8 + LENGTH), varint(bytes.length), bytes);
}

/** Writes a number in groups of seven bits, the lowest first. */
export function varint(value: number): Fields {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Uint8Array.of(...bytes, rest);
}
