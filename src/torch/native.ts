/** The addon's functions and their types. Importing this file loads libtorch. */
import { loadAddon } from "./install/libtorch.ts";

/** Number of a C++ tensor or generator; 0: none. */
export type Handle = number;
/** Number of an operator, from `resolve`. */
export type Op = number;

/** Instructions that lorafit's own kernels use on the CPU; each level has those of the levels before it. */
export const LOOP_LEVELS = ["baseline", "avx2", "avx512", "avx512bf16", "amx"] as const;
export type LoopLevel = (typeof LOOP_LEVELS)[number];

/** The table of native/addon.cc. The headers native/*.h say what each function accepts and throws. */
export interface Native {
  resolve(name: string, overload: string, nullable: readonly string[]): Op;
  schema(op: Op): string;
  // biome-ignore lint/suspicious/noExplicitAny: results have the form that the op's schema says
  call(op: Op, ...inputs: unknown[]): any;
  fromBytes(data: ArrayBufferView, dtype: unknown, shape: readonly number[]): Handle;
  toBytes(tensor: Handle): Uint8Array<ArrayBuffer>;
  item(tensor: Handle): number;
  shape(tensor: Handle): number[];
  strides(tensor: Handle): number[];
  dtype(tensor: Handle): number;
  device(tensor: Handle): number;
  isContiguous(tensor: Handle): boolean;
  dispose(tensor: Handle): boolean;
  disposeAll(tensors: readonly Handle[]): void;
  liveTensors(): number;
  mapFile(path: string): Handle;
  mappedLength(file: Handle): number;
  mappedBytes(file: Handle, offsetBytes: number, lengthBytes: number): Uint8Array<ArrayBuffer>;
  mappedTensor(file: Handle, offsetBytes: number, dtype: unknown, shape: readonly number[]): Handle;
  unmapFile(file: Handle): boolean;
  startCopy(to: unknown, from: unknown): Handle;
  waitCopy(copy: Handle, onHost: boolean): void;
  copyArrival(copy: Handle): Promise<void>;
  letGoOfSource(copy: Handle): void;
  isCopied(copy: Handle): boolean;
  timeCopies(on: boolean): void;
  takeCopyTimes(): number[];
  pendingCopies(): number;
  stagingBytes(): number;
  sideStream(device: unknown, call: number): void;
  grad(outputs: unknown, inputs: unknown, gradOutputs: unknown, retainGraph: boolean): Handle[];
  gradMode(on: boolean): boolean;
  setRequiresGrad(tensor: Handle, on: boolean): void;
  requiresGrad(tensor: Handle): boolean;
  createGenerator(seed: bigint | number, device: unknown): Handle;
  generatorState(generator: Handle): Uint8Array<ArrayBuffer>;
  setGeneratorState(generator: Handle, state: Uint8Array): void;
  disposeGenerator(generator: Handle): boolean;
  manualSeed(seed: bigint | number): void;
  setPool(pool: number): number;
  setCategory(category: number): number;
  memoryStats(device: unknown, pool: number): number[];
  cpuMemory(): number[];
  resetPeak(device: unknown, pool: number): void;
  setCap(device: unknown, pool: number, bytes: number | undefined): void;
  failAtAllocation(device: unknown, n: number): void;
  recordAllocations(device: unknown, on: boolean): void;
  takeAllocations(device: unknown): Uint8Array<ArrayBuffer>[];
  countExposed(): void;
  countKernel(id: number, reads: unknown, writes: unknown): void;
  traceCalls(on: boolean): void;
  takeCalls(): Uint8Array<ArrayBuffer>;
  setRepeats(repeats: number): number;
  setPlanTarget(cuda: boolean, multiprocessors: number): [cuda: boolean, multiprocessors: number];
  setOutOfMemoryClass(made: new (...facts: never[]) => Error): void;
  setThreads(threads: number): void;
  getThreads(): number;
  processorTimes(): number[];
  loadCuda(): number;
  useCard(device: unknown): void;
  synchronize(device: unknown): void;
  emptyCache(device: unknown): void;
  deviceMemory(device: unknown): number[];
  cardFacts(index: number): [name: string, capability: number, bytes: number, multiprocessors: number];
  nvrtcFacts(library: string): number[];
  nvrtcCompile(library: string, source: string, options: readonly string[]): Uint8Array<ArrayBuffer>;
  loadKernel(device: unknown, code: Uint8Array, entry: string): Handle;
  launchKernel(
    kernel: Handle,
    blocks: readonly number[],
    threads: number,
    kinds: string,
    ...inputs: unknown[]
  ): void;
  runLoop(entry: string, dtype: unknown, kinds: string, ...inputs: unknown[]): void;
  loopLevel(level?: LoopLevel): LoopLevel;
  multipliesBfloat16(): boolean;
  panelColumns(): number;
  panelPairs(): number;
  openStore(
    host: string,
    port: number,
    serves: boolean,
    listenFd: number,
    timeoutMs: number,
    rank: number,
    count: number,
    prefix: string,
  ): Promise<Handle>;
  connectStore(store: Handle): Promise<Handle>;
  storePort(store: Handle): number;
  storeSet(store: Handle, key: string, value: Uint8Array): Promise<void>;
  storeGet(
    store: Handle,
    keys: readonly string[],
    what: string,
    patienceMs: number,
  ): Promise<Uint8Array<ArrayBuffer>[]>;
  storeHas(store: Handle, key: string): Promise<boolean>;
  storeDelete(store: Handle, key: string): Promise<void>;
  closeStore(store: Handle): void;
  countTurn(): void;
  openGroup(
    store: Handle,
    address: string,
    threads: number,
    timeoutMs: number,
    checks: boolean,
  ): Promise<Handle>;
  openCards(group: Handle, store: Handle, device: unknown, library: string): Promise<void>;
  closeGroup(group: Handle): void;
  startCollective(group: Handle, kind: number, to: unknown, from: unknown, root: number): Handle;
  waitCollective(collective: Handle): void;
  isCollectiveDone(collective: Handle): boolean;
  collectiveArrival(collective: Handle): Promise<void>;
  pendingCollectives(): number;
  startWatch(store: Handle, host: string, limitMs: number, onLost: (words: string) => void): Promise<void>;
  failWatch(store: Handle, reason: string): void;
  failNow(store: Handle, reason: string): void;
  leaveWatch(store: Handle, graceMs: number): Promise<void>;
  lostWords(store: Handle, graceMs: number): Promise<string>;
}

export const native = loadAddon() as Native;
