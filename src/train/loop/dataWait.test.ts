import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { waitFor } from "./dataWait.ts";

/** A card that has work for so long from now on. */
const busyFor = (ms: number) => {
  const until = performance.now() + ms;
  return () => performance.now() < until;
};

describe("a wait of 100 ms", () => {
  beforeEach(() => {
    vi.useFakeTimers({
      toFake: ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "performance"],
    });
  });
  afterEach(() => vi.useRealTimers());

  it.each([
    ["that computes all the time", 200, 0],
    ["that is done with its work before", 60, 40],
    ["that has nothing to do", 0, 100],
  ])("stalls a device %s by what is not hidden", async (_, busyMs, stalledMs) => {
    const data = new Promise<string>((resolve) => setTimeout(() => resolve("data"), 100));
    const waiting = waitFor(data, { signal: undefined, isBusy: busyFor(busyMs) });
    await vi.advanceTimersByTimeAsync(100);
    expect(await waiting).toEqual({ value: "data", stalledMs });
    expect(vi.getTimerCount()).toBe(0);
  });
});

it("a run that is asked to stop waits no longer; what fails later is no unhandled rejection", async () => {
  const interruption = new AbortController();
  const { signal } = interruption;
  let fail = (): void => {};
  const data = new Promise<string>((_, reject) => {
    fail = () => reject(new Error("the disk is gone"));
  });
  const waiting = waitFor(data, { signal, isBusy: () => false });
  interruption.abort();
  expect(await waiting).toBeUndefined();
  fail();
  await sleep(0); // vitest fails a test after which a rejection is unhandled
});

it("what fails while it is waited for is thrown", async () => {
  const { signal } = new AbortController();
  const waiting = waitFor(Promise.reject(new Error("gone")), { signal, isBusy: () => true });
  await expect(waiting).rejects.toThrow("gone");
});
