/**
 * Records of a TensorBoard event file. Sources: tensorboard/compat/proto (event.proto, summary.proto,
 * tensor.proto), torch.utils.tensorboard.summary for the form of texts, and TFRecord in
 * tensorflow/core/lib/io/record_writer.h.
 */
import { maskedCrc32c } from "./crc32c.ts";
import { double, type Fields, float, integer, message, nested } from "./protobuf.ts";

/** SessionLog.START: readers drop what earlier files hold from this step on. */
const SESSION_START = 1;
/** DataType.DT_STRING. */
const STRING_TYPE = 7;
const RGB = 3;

/** A value of a summary, by its tag. */
export type Value = Fields;

export function scalarValue(tag: string, value: number): Value {
  return nested(1, message(nested(1, tag), float(2, value)));
}

/** text: Markdown. */
export function textValue(tag: string, text: string): Value {
  const metadata = nested(9, nested(1, nested(1, "text")));
  const shape = nested(2, nested(2, integer(1, 1))); // one string
  const tensor = nested(8, message(integer(1, STRING_TYPE), shape, nested(8, text)));
  return nested(1, message(nested(1, `${tag}/text_summary`), metadata, tensor));
}

/** encoded: the file of a picture, as PNG or JPEG. */
export function imageValue(
  tag: string,
  { encoded, width, height }: { encoded: Uint8Array; width: number; height: number },
): Value {
  const image = message(integer(1, height), integer(2, width), integer(3, RGB), nested(4, encoded));
  return nested(1, message(nested(1, tag), nested(4, image)));
}

export interface EventTime {
  atMs: number;
  step: number;
}

/** Returns the record that every file begins with. */
export function versionRecord(time: EventTime): Buffer {
  return record(message(dated(time), nested(3, "brain.Event:2")));
}

/** Returns the record of a restart: a reader drops what it has of this step and later ones. */
export function restartRecord(time: EventTime): Buffer {
  return record(message(dated(time), nested(7, integer(1, SESSION_START))));
}

export function summaryRecord(time: EventTime, values: readonly Value[]): Buffer {
  return record(message(dated(time), nested(5, message(...values))));
}

function dated({ atMs, step }: EventTime): Fields {
  return message(double(1, atMs / 1000), integer(2, step));
}

/** Frames a record: its length and data, each with a checksum. */
function record(data: Uint8Array): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  return Buffer.concat([length, checksum(length), data, checksum(data)]);
}

function checksum(bytes: Uint8Array): Buffer {
  const sum = Buffer.alloc(4);
  sum.writeUInt32LE(maskedCrc32c(bytes));
  return sum;
}
