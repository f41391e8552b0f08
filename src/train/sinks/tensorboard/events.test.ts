import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { crc32c, maskedCrc32c } from "./crc32c.ts";
import { imageValue, scalarValue, summaryRecord, textValue, versionRecord } from "./events.ts";
import { integer, nested, varint } from "./protobuf.ts";

describe("CRC-32C", () => {
  // RFC 3720, appendix B.4, and the usual check value of the algorithm
  it.each([
    ["32 zeros", new Uint8Array(32), 0x8a9136aa],
    ["32 bytes of ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ["0 to 31", Uint8Array.from({ length: 32 }, (_, at) => at), 0x46dd794e],
    ["31 to 0", Uint8Array.from({ length: 32 }, (_, at) => 31 - at), 0x113fdb5c],
    ["123456789", Buffer.from("123456789"), 0xe3069283],
    ["nothing", new Uint8Array(0), 0],
  ])("of %s is the published one", (_, bytes, sum) => {
    expect(crc32c(bytes)).toBe(sum);
  });

  it("is masked so that the mask can be taken off again", () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        const rotated = (maskedCrc32c(bytes) - 0xa282ead8) >>> 0;
        expect(((rotated >>> 17) | (rotated << 15)) >>> 0).toBe(crc32c(bytes));
      }),
    );
  });
});

describe("Protocol Buffers", () => {
  // the examples of protobuf.dev/programming-guides/encoding
  it("writes 150 in field 1, and texts, as the documentation shows", () => {
    expect([...integer(1, 150)]).toEqual([0x08, 0x96, 0x01]);
    expect([...nested(2, "testing")]).toEqual([0x12, 0x07, ...Buffer.from("testing")]);
    expect([...nested(3, integer(1, 150))]).toEqual([0x1a, 0x03, 0x08, 0x96, 0x01]);
  });

  it("writes whole numbers up to 2^53 in groups of seven bits", () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        const bytes = [...varint(value)];
        expect(bytes.slice(0, -1).every((byte) => byte >= 0x80)).toBe(true);
        expect(bytes.reduceRight((sum, byte) => sum * 128 + (byte & 0x7f), 0)).toBe(value);
      }),
    );
  });
});

it("a file begins with its version, framed by its length and two checksums", () => {
  const record = versionRecord({ atMs: 0, step: 0 });
  expect(record.readBigUInt64LE(0)).toBe(BigInt(record.length - 16));
  expect(record.readUInt32LE(8)).toBe(maskedCrc32c(record.subarray(0, 8)));
  expect(record.readUInt32LE(record.length - 4)).toBe(maskedCrc32c(record.subarray(12, -4)));
  expect(record.includes("brain.Event:2")).toBe(true);
});

it("a record holds its values by their tags, texts and pictures as they are", () => {
  const encoded = Uint8Array.of(137, 80, 78, 71);
  const values = [
    scalarValue("train/loss", 0.5),
    textValue("options", "lora_r: 8"),
    imageValue("page", { encoded, width: 640, height: 480 }),
  ];
  const record = summaryRecord({ atMs: 1500, step: 7 }, values);
  expect(record.readDoubleLE(13)).toBe(1.5);
  for (const part of ["train/loss", "options/text_summary", "lora_r: 8", "page", Buffer.from(encoded)])
    expect(record.includes(part)).toBe(true);
});
