/**
 * A restricted unpickler: it builds dicts, lists, tuples, numbers and strings. The host grants or refuses
 * every other name, so that reading a file never runs code from it. Format: CPython's Lib/pickletools.py,
 * protocols 2 to 5.
 */
import type { UserError } from "../../errors.ts";
import { damaged } from "../faults.ts";

/** A class or function that a pickle may name. Without `call` it is only a name. */
export interface PickleGlobal {
  name: string;
  call?(args: readonly unknown[]): unknown;
}

/** Grants what lies outside of the pickle. */
export interface PickleHost {
  /** Throws if the pickle must not have it. */
  global(module: string, name: string): PickleGlobal;
  /** Returns the object for a persistent id. */
  persistent(id: unknown): unknown;
}

/**
 * Opcodes of the largest pickle: 20 times those of a 7B model. Bounds time (a second or two) and memory
 * (about 300 MiB).
 */
const MOST_WORK = 2 ** 20;
const MOST_LONG_BYTES = 32;

interface Machine {
  readonly bytes: Buffer;
  readonly host: PickleHost;
  readonly memo: Map<number, unknown>;
  /** Makes the error that ends reading; `fault` is a clause about the pickle. */
  fail(fault: string): UserError;
  at: number;
  /** Opcodes run so far, and items passed to functions: one opcode may pass many. */
  work: number;
  stack: unknown[];
  /** Stacks below each open mark. */
  readonly marked: unknown[][];
}

/**
 * Returns the value of the pickle that begins at `start`, and its end. Lists and tuples become arrays, dicts
 * and OrderedDicts become Maps. Throws UserError if the pickle is cut off, malformed, or has anything else.
 */
export function unpickle(
  bytes: Buffer,
  path: string,
  host: PickleHost,
  start = 0,
): { value: unknown; end: number } {
  const machine: Machine = {
    bytes,
    host,
    memo: new Map(),
    fail: (fault) => damaged(path, `its pickle ${fault} (at byte ${machine.at})`),
    at: start,
    work: 0,
    stack: [],
    marked: [],
  };
  while (machine.work++ < MOST_WORK) {
    const code = uint(machine, 1);
    if (code === STOP) return { value: pop(machine), end: machine.at };
    const run = OPCODES.get(code);
    if (!run) throw machine.fail(`uses opcode 0x${code.toString(16)}, which torch.save never writes,`);
    run(machine);
  }
  throw machine.fail("is longer than any checkpoint needs");
}

const STOP = ".".charCodeAt(0);

// biome-ignore format: one opcode a line
const OPCODES = new Map<number, (machine: Machine) => void>([
  [0x80, (m) => protocol(m, uint(m, 1))],                                    // PROTO
  [0x95, (m) => void take(m, 8)],                                            // FRAME: its length says nothing new
  [code("N"), (m) => push(m, null)],
  [0x88, (m) => push(m, true)],                                              // NEWTRUE
  [0x89, (m) => push(m, false)],                                             // NEWFALSE
  [code("K"), (m) => push(m, uint(m, 1))],                                   // BININT1
  [code("M"), (m) => push(m, uint(m, 2))],                                   // BININT2
  [code("J"), (m) => push(m, take(m, 4).readInt32LE())],                     // BININT
  [0x8a, (m) => push(m, long(m, uint(m, 1)))],                               // LONG1
  [0x8b, (m) => push(m, long(m, uint(m, 4)))],                               // LONG4
  [code("G"), (m) => push(m, take(m, 8).readDoubleBE())],                    // BINFLOAT
  [code("U"), (m) => push(m, take(m, uint(m, 1)).toString("utf8"))],         // SHORT_BINSTRING
  [code("T"), (m) => push(m, take(m, uint(m, 4)).toString("utf8"))],         // BINSTRING
  [0x8c, (m) => push(m, take(m, uint(m, 1)).toString("utf8"))],              // SHORT_BINUNICODE
  [code("X"), (m) => push(m, take(m, uint(m, 4)).toString("utf8"))],         // BINUNICODE
  [0x8d, (m) => push(m, take(m, uint(m, 8)).toString("utf8"))],              // BINUNICODE8
  [code("C"), (m) => push(m, new Uint8Array(take(m, uint(m, 1))))],          // SHORT_BINBYTES
  [code("B"), (m) => push(m, new Uint8Array(take(m, uint(m, 4))))],          // BINBYTES
  [0x8e, (m) => push(m, new Uint8Array(take(m, uint(m, 8))))],               // BINBYTES8
  [code("]"), (m) => push(m, [])],
  [code("a"), (m) => append(m, [pop(m)])],                                   // APPEND
  [code("e"), (m) => append(m, popMark(m))],                                 // APPENDS
  [code(")"), (m) => push(m, [])],
  [0x85, (m) => push(m, popSeveral(m, 1))],                                  // TUPLE1
  [0x86, (m) => push(m, popSeveral(m, 2))],                                  // TUPLE2
  [0x87, (m) => push(m, popSeveral(m, 3))],                                  // TUPLE3
  [code("t"), (m) => push(m, popMark(m))],                                   // TUPLE
  [code("}"), (m) => push(m, new Map())],
  [code("s"), (m) => setItems(m, popSeveral(m, 2))],                         // SETITEM
  [code("u"), (m) => setItems(m, popMark(m))],                               // SETITEMS
  [code("("), (m) => mark(m)],
  [code("0"), (m) => void pop(m)],
  [code("1"), (m) => void popMark(m)],
  [code("2"), (m) => push(m, top(m))],                                       // DUP
  [code("q"), (m) => void m.memo.set(uint(m, 1), top(m))],                   // BINPUT
  [code("r"), (m) => void m.memo.set(uint(m, 4), top(m))],                   // LONG_BINPUT
  [0x94, (m) => void m.memo.set(m.memo.size, top(m))],                       // MEMOIZE
  [code("h"), (m) => push(m, recall(m, uint(m, 1)))],                        // BINGET
  [code("j"), (m) => push(m, recall(m, uint(m, 4)))],                        // LONG_BINGET
  [code("c"), (m) => push(m, m.host.global(line(m), line(m)))],              // GLOBAL
  [0x93, (m) => stackGlobal(m, popSeveral(m, 2))],                           // STACK_GLOBAL
  [code("R"), (m) => call(m, popSeveral(m, 2))],                             // REDUCE
  [0x81, (m) => call(m, popSeveral(m, 2))],                                  // NEWOBJ
  [code("b"), (m) => build(m)],                                              // BUILD
  [code("Q"), (m) => push(m, m.host.persistent(pop(m)))],                    // BINPERSID
]);

function code(character: string): number {
  return character.charCodeAt(0);
}

function take(machine: Machine, lengthBytes: number): Buffer {
  const end = machine.at + lengthBytes;
  if (end > machine.bytes.length) throw machine.fail("is cut off");
  const taken = machine.bytes.subarray(machine.at, end);
  machine.at = end;
  return taken;
}

/** Reads a whole number of 1, 2, 4 or 8 bytes. A length beyond a double's integers is refused by `take`. */
function uint(machine: Machine, bytes: 1 | 2 | 4 | 8): number {
  const taken = take(machine, bytes);
  return bytes === 8 ? Number(taken.readBigUInt64LE()) : taken.readUIntLE(0, bytes);
}

/** Reads two's complement: a number if that is exact, else a bigint. */
function long(machine: Machine, bytes: number): number | bigint {
  if (bytes > MOST_LONG_BYTES) throw machine.fail(`has a number of ${bytes} bytes`);
  const digits = Buffer.from(take(machine, bytes)).reverse().toString("hex");
  const value = BigInt.asIntN(8 * bytes, BigInt(`0x${digits || "0"}`));
  return Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

/** Reads text up to the end of the line. */
function line(machine: Machine): string {
  const end = machine.bytes.indexOf("\n", machine.at);
  if (end < 0) throw machine.fail("is cut off");
  return take(machine, end + 1 - machine.at)
    .subarray(0, -1)
    .toString("utf8");
}

function protocol(machine: Machine, version: number): void {
  if (version < 2 || version > 5) throw machine.fail(`has protocol ${version}, which is not known here,`);
}

function push(machine: Machine, value: unknown): void {
  machine.stack.push(value);
}

function top(machine: Machine): unknown {
  if (machine.stack.length === 0) throw machine.fail("takes more than it has");
  return machine.stack.at(-1);
}

function pop(machine: Machine): unknown {
  const value = top(machine);
  machine.stack.pop();
  return value;
}

function popSeveral(machine: Machine, count: number): unknown[] {
  if (machine.stack.length < count) throw machine.fail("takes more than it has");
  return machine.stack.splice(-count);
}

function mark(machine: Machine): void {
  machine.marked.push(machine.stack);
  machine.stack = [];
}

/** Removes and returns the values since the last mark. */
function popMark(machine: Machine): unknown[] {
  const before = machine.marked.pop();
  if (!before) throw machine.fail("closes a group that it did not open");
  const items = machine.stack;
  machine.stack = before;
  return items;
}

function recall(machine: Machine, index: number): unknown {
  if (!machine.memo.has(index)) throw machine.fail("refers to something that it did not define");
  return machine.memo.get(index);
}

function append(machine: Machine, items: unknown[]): void {
  const list = top(machine);
  if (!Array.isArray(list)) throw machine.fail("appends to what is no list");
  for (const item of items) list.push(item);
}

function setItems(machine: Machine, items: unknown[]): void {
  const dict = top(machine);
  if (!(dict instanceof Map) || items.length % 2 !== 0) throw machine.fail("sets items of what is no dict");
  for (let at = 0; at < items.length; at += 2) {
    const key = items[at];
    if (typeof key === "object" && key !== null)
      throw machine.fail("has a dict key that is no number or text");
    dict.set(key, items[at + 1]);
  }
}

function stackGlobal(machine: Machine, [module, name]: unknown[]): void {
  if (typeof module !== "string" || typeof name !== "string")
    throw machine.fail("asks for something without a name");
  push(machine, machine.host.global(module, name));
}

function call(machine: Machine, [callee, args]: unknown[]): void {
  const { call, name } = (callee ?? {}) as Partial<PickleGlobal>;
  if (typeof call !== "function" || !Array.isArray(args)) {
    throw machine.fail(
      `calls ${typeof name === "string" ? `"${name}", which is no function` : "what is no function"}`,
    );
  }
  for (const arg of args) machine.work += Array.isArray(arg) ? arg.length : 1;
  if (machine.work > MOST_WORK) throw machine.fail("is longer than any checkpoint needs");
  push(machine, call(args));
}

/**
 * Drops an OrderedDict's attributes, such as the versions that state_dict() keeps: they say nothing about
 * tensors.
 */
function build(machine: Machine): void {
  pop(machine);
  if (!(top(machine) instanceof Map)) throw machine.fail("sets attributes of what is no dict");
}
