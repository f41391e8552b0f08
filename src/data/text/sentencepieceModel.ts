/**
 * Reads and writes the file format of a sentencepiece tokenizer (`ModelProto` of sentencepiece_model.proto):
 * the pieces with their kinds, and the few settings that a small BPE model needs. Reading skips everything
 * else.
 */
import { UserError } from "../../errors.ts";

/** Numbers of `ModelProto.SentencePiece.Type`. */
export const PIECE_KINDS = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
export type PieceKind = keyof typeof PIECE_KINDS;

export interface Piece {
  text: string;
  score: number;
  kind: PieceKind;
}

const UTF8 = new TextDecoder("utf-8", { fatal: true });
const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;
const KIND_OF_NUMBER = new Map(
  Object.entries(PIECE_KINDS).map(([kind, number]) => [number as number, kind as PieceKind]),
);

/**
 * Returns the pieces of a model file in the order of their ids. Throws a UserError on bytes of another kind.
 */
export function readPieces(bytes: Uint8Array, file: string): Piece[] {
  const pieces: Piece[] = [];
  try {
    for (const field of fields(bytes)) {
      if (field.number === 1 && field.bytes) pieces.push(readPiece(field.bytes));
    }
    if (pieces.length === 0) throw new RangeError("it has no pieces");
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
    throw new UserError(`${file} is not a sentencepiece model: ${error.message}.`, {
      fix: "Download tokenizer.model of the model again; the file may be incomplete.",
      cause: error,
    });
  }
  return pieces;
}

/**
 * Encodes a BPE model with byte fallback and single digits, which leaves text as it is and puts no space
 * before it.
 */
export function writeModel(pieces: Piece[]): Uint8Array {
  const userDefined = pieces.filter((piece) => piece.kind === "userDefined");
  const trainerSpec = concat([
    varintField(3, 2), // model_type: BPE
    varintField(4, pieces.length), // vocab_size
    varintField(25, 1), // split_digits
    ...userDefined.map((piece) => bytesField(31, utf8(piece.text))), // user_defined_symbols
    varintField(35, 1), // byte_fallback
  ]);
  const normalizerSpec = concat([
    bytesField(1, utf8("identity")),
    varintField(3, 0), // add_dummy_prefix
    varintField(4, 0), // remove_extra_whitespaces
    varintField(5, 1), // escape_whitespaces: a space is U+2581 in pieces
  ]);
  return concat([
    ...pieces.map((piece) => bytesField(1, writePiece(piece))),
    bytesField(2, trainerSpec),
    bytesField(3, normalizerSpec),
  ]);
}

function readPiece(bytes: Uint8Array): Piece {
  const piece: Piece = { text: "", score: 0, kind: "normal" };
  for (const field of fields(bytes)) {
    if (field.number === 1 && field.bytes) piece.text = UTF8.decode(field.bytes);
    if (field.number === 2 && field.bytes) piece.score = view(field.bytes).getFloat32(0, true);
    if (field.number === 3) piece.kind = KIND_OF_NUMBER.get(field.value) ?? unknownKind(field.value);
  }
  return piece;
}

function unknownKind(number: number): never {
  throw new RangeError(`it has a piece of kind ${number}`);
}

function writePiece({ text, score, kind }: Piece): Uint8Array {
  const scoreBytes = new Uint8Array(4);
  view(scoreBytes).setFloat32(0, score, true);
  const scoreField = concat([varint((2 << 3) | WIRE.fixed32), scoreBytes]);
  return concat([bytesField(1, utf8(text)), scoreField, varintField(3, PIECE_KINDS[kind])]);
}

interface Field {
  number: number;
  value: number; // of a varint, else 0
  bytes?: Uint8Array; // of everything else
}

/** Yields the fields of one message; throws a RangeError if the bytes are no message. */
function* fields(bytes: Uint8Array): Generator<Field> {
  let at = 0;
  const readVarint = (): number => {
    let value = 0;
    for (let shift = 1; shift < 2 ** 70; shift *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new RangeError("it ends in the middle of a number");
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
    throw new RangeError("it holds a number of more than ten bytes");
  };
  const take = (count: number): Uint8Array => {
    if (count > bytes.length - at) throw new RangeError("it ends in the middle of a field");
    at += count;
    return bytes.subarray(at - count, at);
  };
  while (at < bytes.length) {
    const key = readVarint();
    const number = Math.floor(key / 8);
    const wire = key % 8;
    if (wire === WIRE.varint) yield { number, value: readVarint() };
    else if (wire === WIRE.bytes) yield { number, value: 0, bytes: take(readVarint()) };
    else if (wire === WIRE.fixed32) yield { number, value: 0, bytes: take(4) };
    else if (wire === WIRE.fixed64) yield { number, value: 0, bytes: take(8) };
    else throw new RangeError(`it holds a field of wire type ${wire}`);
  }
}

function varintField(number: number, value: number): Uint8Array {
  return concat([varint((number << 3) | WIRE.varint), varint(value)]);
}

function bytesField(number: number, bytes: Uint8Array): Uint8Array {
  return concat([varint((number << 3) | WIRE.bytes), varint(bytes.length), bytes]);
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    bytes.push(rest < 128 ? rest : (rest % 128) | 128);
    if (rest < 128) return Uint8Array.from(bytes);
  }
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function concat(parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
