/** Random number generators whose state can be saved, so that a resumed run continues the same sequence. */
import { type Device, deviceCode, notA } from "./dtypes.ts";
import { type Handle, native } from "./native.ts";

/** A random sequence of one device. Operators with the option `generator` draw from it. */
export class Generator implements Disposable {
  handle: Handle;

  constructor(handle: Handle) {
    this.handle = handle;
  }

  /** Returns the state as bytes, for setState. */
  state(): Uint8Array<ArrayBuffer> {
    return native.generatorState(this.handle);
  }

  /** Continues from a state of a generator of the same device. Throws if the bytes are no such state. */
  setState(state: Uint8Array): void {
    native.setGeneratorState(this.handle, state);
  }

  dispose(): void {
    native.disposeGenerator(this.handle);
    this.handle = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Creates a generator with this seed of up to 64 bits. The caller disposes it. On meta, nothing is drawn, and
 * the generator is one of cpu.
 */
export function createGenerator(seed: bigint | number, device: Device = "cpu"): Generator {
  return new Generator(native.createGenerator(seed, deviceCode(device)));
}

/** Seeds the default generator of every device. */
export function manualSeed(seed: bigint | number): void {
  native.manualSeed(seed);
}

/** Returns the argument for a generator in a call into the engine. */
export function generatorHandle(value: unknown): Handle | symbol | null | undefined {
  if (value instanceof Generator) return value.handle;
  return value === undefined || value === null ? value : notA(value);
}
