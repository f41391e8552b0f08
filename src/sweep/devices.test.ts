import { expect, it } from "vitest";
import { eachOn, type Slot, slotsOf } from "./devices.ts";

const asked = { devices: undefined, device: undefined, cards: 0, visible: undefined };

it("one trial at a time runs on each card, which is the only one that its process sees", () => {
  const slots = slotsOf({ ...asked, cards: 3 });
  expect(slots.map(({ environment }) => environment.CUDA_VISIBLE_DEVICES)).toEqual(["0", "1", "2"]);
  const some = slotsOf({ ...asked, cards: 2, visible: "5, GPU-8a2f" });
  expect(some.map(({ environment }) => environment.CUDA_VISIBLE_DEVICES)).toEqual(["5", "GPU-8a2f"]);
  const named = slotsOf({ ...asked, devices: ["cuda:1", "0"], cards: 3, visible: "4,6,7" });
  expect(named.map(({ environment }) => environment.CUDA_VISIBLE_DEVICES)).toEqual(["6", "4"]);
});

it("without a card, or where the options say so, trials run on the CPU or on the card that they name", () => {
  expect(slotsOf(asked).map(({ name }) => name)).toEqual(["cpu"]);
  expect(slotsOf({ ...asked, device: "cpu", cards: 4 }).map(({ name }) => name)).toEqual(["cpu"]);
  expect(slotsOf({ ...asked, devices: ["cpu", "cpu"], cards: 4 }).map(({ options }) => options)).toEqual([
    { device: "cpu" },
    { device: "cpu" },
  ]);
  expect(slotsOf({ ...asked, device: "cuda:1", cards: 4 })).toEqual([
    { name: "cuda:1", environment: {}, options: {} },
  ]);
});

/** Runs jobs that end when the test says so, and records which run at a time. */
function controlled(slots: readonly Slot[], jobs: number, signal = new AbortController().signal) {
  const running = new Map<number, { slot: Slot; end: () => void; fail: (cause: Error) => void }>();
  const begun: string[] = [];
  const all = eachOn(
    slots,
    Array.from({ length: jobs }, (_, job) => job),
    (job, slot) =>
      new Promise<void>((resolve, reject) => {
        begun.push(`${job} on ${slot.name}`);
        running.set(job, { slot, end: resolve, fail: reject });
      }).finally(() => running.delete(job)),
    signal,
  );
  all.catch(() => {});
  return { running, begun, all };
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

it("a device takes the next trial when its own has ended", async () => {
  const { running, begun, all } = controlled(slotsOf({ ...asked, cards: 2 }), 4);
  expect(begun).toEqual(["0 on cuda:0", "1 on cuda:1"]);
  running.get(1)!.end();
  await settled();
  running.get(2)!.end();
  await settled();
  expect(begun.slice(2)).toEqual(["2 on cuda:1", "3 on cuda:1"]);
  expect([...running.keys()]).toEqual([0, 3]);
  for (const { end } of running.values()) end();
  await all;
});

it("no trial begins after a signal, or after an error, which comes out at the end", async () => {
  const stop = new AbortController();
  const stopped = controlled(slotsOf({ ...asked, cards: 1 }), 3, stop.signal);
  stop.abort();
  stopped.running.get(0)!.end();
  await stopped.all;
  expect(stopped.begun).toHaveLength(1);

  const failed = controlled(slotsOf({ ...asked, cards: 2 }), 4);
  failed.running.get(0)!.fail(new Error("the disk is full"));
  await settled();
  failed.running.get(1)!.end();
  await expect(failed.all).rejects.toThrow("the disk is full");
  expect(failed.begun).toHaveLength(2);
});
