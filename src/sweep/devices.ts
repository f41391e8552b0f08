/** Devices that run trials, one trial at a time each. */

export interface Slot {
  /** Name for people: "cpu", "cuda:1". */
  name: string;
  /** Variables of a trial's process: a process sees only its own card. */
  environment: Record<string, string>;
  /** Options of a trial that runs here. */
  options: { device?: string };
}

interface Asked {
  /** The option `devices`. */
  devices: readonly string[] | undefined;
  /** The training option `device`, if all trials share it. */
  device: unknown;
  /** Cards that lorafit can use, as CUDA_VISIBLE_DEVICES leaves them. */
  cards: number;
  visible: string | undefined;
}

/** Returns a slot for each device, at least one. */
export function slotsOf({ devices, device, cards, visible }: Asked): Slot[] {
  if (devices) return devices.map((name) => (name === "cpu" ? CPU : card(cardNumber(name), visible)));
  if (device === "cpu" || (device === undefined && cards === 0)) return [CPU];
  // a run that names one card finds it itself
  if (typeof device === "string" && device.includes(":"))
    return [{ name: device, environment: {}, options: {} }];
  return Array.from({ length: Math.max(1, cards) }, (_, index) => card(index, visible));
}

const CPU: Slot = { name: "cpu", environment: {}, options: { device: "cpu" } };

function card(index: number, visible: string | undefined): Slot {
  const name = visible?.split(",")[index]?.trim() || String(index);
  return { name: `cuda:${index}`, environment: { CUDA_VISIBLE_DEVICES: name }, options: {} };
}

function cardNumber(name: string): number {
  return Number(name.replace("cuda:", ""));
}

/**
 * Does the jobs in their order, one at a time on each slot. If one throws, begins no other, waits for those
 * that run, and throws its error.
 */
export async function eachOn<Job>(
  slots: readonly Slot[],
  jobs: readonly Job[],
  run: (job: Job, slot: Slot) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const queue = [...jobs];
  const failures: unknown[] = [];
  const work = async (slot: Slot): Promise<void> => {
    for (let job = queue.shift(); job !== undefined; job = queue.shift()) {
      if (signal.aborted || failures.length > 0) return;
      await run(job, slot).catch((thrown) => void failures.push(thrown));
    }
  };
  await Promise.all(slots.map(work));
  if (failures.length > 0) throw failures[0];
}
