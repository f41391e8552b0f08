import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { pickled } from "../../../tests/helpers/torchFile.ts";
import { UserError } from "../../errors.ts";
import { type PickleHost, unpickle } from "./pickle.ts";
import { torchHost } from "./torchPickle.ts";

const STRICT = (): PickleHost => torchHost("f.bin", new Map());

/** The value of a pickle of protocol 2 with these opcodes. */
function unpickled(opcodes: Buffer, host = STRICT()): unknown {
  return unpickle(pickled.whole(opcodes), "f.bin", host).value;
}

function bytes(latin1: string): Buffer {
  return Buffer.from(latin1, "latin1");
}

describe("what is refused", () => {
  // biome-ignore format: a table
  const GLOBALS = [
    ["os", "system"], ["posix", "system"], ["nt", "system"], ["builtins", "eval"], ["builtins", "exec"], ["__builtin__", "eval"],
    ["builtins", "getattr"], ["subprocess", "Popen"], ["torch", "load"], ["torch._utils", "_rebuild_tensor"], ["torch.hub", "load"],
    ["collections", "OrderedDict.__init__"], ["collections", "__proto__"], ["torch", "constructor"], ["torch.nn.modules.linear", "Linear"],
    ["numpy.core.multiarray", "_reconstruct"], ["", ""],
  ] as const;

  it.each(GLOBALS)("%s.%s, by its name, whether it is called or only named", (module, name) => {
    const message = `f.bin: its pickle asks for "${module}.${name}", which is refused`;
    const named = pickled.global(module, name);
    expect(() => unpickled(named)).toThrow(message);
    expect(() => unpickled(pickled.call(named, pickled.text("echo")))).toThrow(message);
    const onStack = Buffer.concat([pickled.text(module), pickled.text(name), Buffer.of(0x93)]);
    expect(() => unpickled(onStack)).toThrow(message);
  });

  it("any other global at all", () => {
    const known = /^(collections\.OrderedDict|torch\.|torch\._utils\._rebuild_)/;
    const word = fc.string({ minLength: 1, unit: "grapheme-ascii" });
    fc.assert(
      fc.property(word, word, (module, name) => {
        fc.pre(!known.test(`${module}.${name}`));
        expect(() => STRICT().global(module, name)).toThrow(UserError);
      }),
    );
  });

  it("a long name is told short, and without control characters", () => {
    const asked = (): unknown => unpickled(pickled.global("\u001b[2J", "x".repeat(10_000)));
    expect(asked).toThrow(UserError);
    expect(asked).toThrow(/^.{0,300}$/);
    expect(asked).not.toThrow("\u001b");
  });

  // biome-ignore format: a table
  const FAULTS: [claim: string, opcodes: Buffer, message: string][] = [
    ["calling a type",                 pickled.call(pickled.global("torch", "FloatStorage")), 'calls "torch.FloatStorage", which is no function'],
    ["calling a dict",                 pickled.call(bytes("}")),                      "calls what is no function"],
    ["calling with what are no arguments", Buffer.concat([pickled.global("collections", "OrderedDict"), bytes("NR")]), "calls"],
    ["INST, which makes instances",    bytes("(ios\nsystem\n"),                       "uses opcode 0x69"],
    ["OBJ, which makes instances",     bytes("(NNo"),                                 "uses opcode 0x6f"],
    ["EXT1, which asks a registry",    bytes("\x82\x01"),                             "uses opcode 0x82"],
    ["NEWOBJ_EX",                      bytes("NNN\x92"),                              "uses opcode 0x92"],
    ["BYTEARRAY8",                     bytes("\x96"),                                 "uses opcode 0x96"],
    ["attributes of a list",           bytes("]}b"),                                  "sets attributes of what is no dict"],
    ["appending to a dict",            bytes("}Na"),                                  "appends to what is no list"],
    ["items of a list",                bytes("]NNs"),                                 "sets items of what is no dict"],
    ["a key without a value",          bytes("}(Nu"),                                 "sets items of what is no dict"],
    ["a list as a key",                bytes("}]Ns"),                                 "has a dict key that is no number or text"],
    ["a memo that is not there",       bytes("h\x07"),                                "refers to something that it did not define"],
    ["a mark that is not there",       bytes("t"),                                    "closes a group that it did not open"],
    ["a pop too many",                 bytes("0"),                                    "takes more than it has"],
    ["an empty pickle",                bytes(""),                                     "takes more than it has"],
    ["a number of 40 bytes",           bytes(`\x8a\x28${"\0".repeat(40)}`),           "has a number of 40 bytes"],
    ["a text of 2^63 bytes",           bytes(`\x8d${"\0".repeat(7)}\x80`),            "is cut off"],
    ["a name without an end",          bytes("cos"),                                  "is cut off"],
    ["a global whose name is a number", bytes("K\x01K\x02\x93"),                      "asks for something without a name"],
    ["protocol 6",                     bytes("\x80\x06N"),                            "has protocol 6"],
    ["a reference to no storage",      bytes("NQ"),                                   "a reference to something that is no storage"],
  ];
  it.each(FAULTS)("%s", (_, opcodes, message) => {
    expect(() => unpickled(opcodes)).toThrow(UserError);
    expect(() => unpickled(opcodes)).toThrow(message);
  });

  it("a pickle that is cut off anywhere", () => {
    const whole = pickled.whole(pickled.dict({ a: pickled.list(pickled.int(2 ** 40), pickled.text("b")) }));
    for (let length = 0; length < whole.length; length++) {
      expect(() => unpickle(whole.subarray(0, length), "f.bin", STRICT()), `${length}`).toThrow(UserError);
    }
  });

  it("work without end: many opcodes, or few that give a long list to a function again and again", () => {
    expect(() => unpickled(Buffer.alloc(2 ** 20 + 10, "N0"))).toThrow("is longer than any checkpoint needs");
    const pair = pickled.tuple(pickled.int(1), pickled.int(2));
    const pairs = Buffer.concat([bytes("]("), Buffer.alloc(2e4, bytes("h\x01")), bytes("eq\x02\x300")]);
    const again = bytes("h\x00h\x02\x85R0");
    const bomb = Buffer.concat([
      ...[pickled.global("collections", "OrderedDict"), bytes("q\x000"), pair, bytes("q\x010")],
      ...[pairs.subarray(0, -1), Buffer.alloc(again.length * 1e5, again)],
    ]);
    expect(() => unpickled(bomb)).toThrow("is longer than any checkpoint needs");
  });
});

describe("what is read", () => {
  it("numbers, texts, lists, tuples and dicts of every opcode that Python writes for them", () => {
    const cases: [string, unknown][] = [
      ["N", null],
      ["\x88", true],
      ["\x89", false],
      ["K\xff", 255],
      ["M\x34\x12", 0x1234],
      ["J\xfe\xff\xff\xff", -2],
      ["\x8a\x00", 0],
      ["\x8a\x01\xff", -1],
      ["\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", 2n ** 63n - 1n],
      ["G\x3f\xf8\0\0\0\0\0\0", 1.5],
      ["U\x02hi", "hi"],
      ["T\x02\0\0\0hi", "hi"],
      ["\x8c\x02hi", "hi"],
      ["X\x02\0\0\0hi", "hi"],
      ["\x8d\x02\0\0\0\0\0\0\0hi", "hi"],
      ["C\x02hi", Uint8Array.from(bytes("hi"))],
      ["]K\x01aK\x02a", [1, 2]],
      [")", []],
      ["K\x01\x85", [1]],
      ["K\x01K\x02\x86", [1, 2]],
      ["K\x01K\x02K\x03\x87", [1, 2, 3]],
      ["}K\x01K\x02s", new Map([[1, 2]])],
      ["K\x01q\x05\x302h\x05", "takes more"],
      ["K\x01q\x05h\x05\x86", [1, 1]],
      ["K\x01\x94h\x00\x86", [1, 1]],
      ["K\x01r\x05\0\0\0j\x05\0\0\0\x86", [1, 1]],
      ["K\x012\x86", [1, 1]],
      ["K\x01(K\x021", 1],
      ["ccollections\nOrderedDict\n)R}b", new Map()],
    ];
    for (const [opcodes, value] of cases) {
      const read = (): unknown => unpickled(bytes(opcodes));
      if (value === "takes more") expect(read).toThrow("takes more than it has");
      else expect(read(), JSON.stringify(opcodes)).toEqual(value);
    }
  });

  it("an OrderedDict of pairs", () => {
    const pair = pickled.list(pickled.text("a"), pickled.int(1));
    const dict = pickled.call(pickled.global("collections", "OrderedDict"), pickled.list(pair));
    expect(unpickled(dict)).toEqual(new Map([["a", 1]]));
  });

  it("a list that holds itself", () => {
    const list = unpickled(bytes("]q\x00h\x00a")) as unknown[];
    expect(list[0]).toBe(list);
  });
});
