/** Random number generators with a state that can be saved, so that a resumed run draws what it would have drawn. */
import { type Device, deviceCode, notA } from "./dtypes.ts";
import { type Handle, native } from "./native.ts";

/** A stream of random numbers of one device; draws by ops that take `generator`. */
export class Generator implements Disposable {
  handle: Handle;

  constructor(handle: Handle) {
    this.handle = handle;
  }

  /** The state as bytes, for setState. */
  state(): Uint8Array<ArrayBuffer> {
    return native.generatorState(this.handle);
  }

  /** Goes on from a state of a generator of the same device; throws on bytes that are none. */
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

/** A generator with this seed of up to 64 bits; the caller disposes it. On meta nothing is drawn, and the generator is cpu's. */
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
