/**
 * Work beside the computation: on a card on a stream of its own. Its operators must allocate nothing, and
 * write to nothing that the computation uses before it joins.
 */
import { type Device, deviceCode, isCard } from "./dtypes.ts";
import { native } from "./native.ts";
import { refuseDeferred } from "./tensor.ts";
import { countedBeside } from "./trace.ts";

/** Numbers of native/side_stream.cc's calls. */
const [ENTER, LEAVE, JOIN] = [0, 1, 2] as const;

/**
 * Runs the body's operators and collectives after all that is queued now, and beside what is queued later. On
 * a CPU they run at once, and its collectives go on beside.
 */
export function besideComputation<T>(
  device: Device,
  body: () => T extends PromiseLike<unknown> ? never : T,
): T {
  if (device === "meta") return countedBeside(body);
  if (!isCard(device)) return body();
  native.sideStream(deviceCode(device), ENTER);
  try {
    const result: T = body();
    refuseDeferred(result, "besideComputation");
    return result;
  } finally {
    native.sideStream(deviceCode(device), LEAVE);
  }
}

/** Makes the computation that is queued later wait for what went on beside it. */
export function joinSide(device: Device): void {
  if (isCard(device)) native.sideStream(deviceCode(device), JOIN);
}
