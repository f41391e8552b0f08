import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { eventStream } from "./sse.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

async function* broken(): AsyncGenerator<object> {
  yield { piece: 1 };
  throw new Error("a defect");
}

it("a stream that breaks off leaves no timer behind, whose next beat would end the server", async () => {
  await expect(eventStream(broken(), () => {}).text()).rejects.toThrow("a defect");
  expect(vi.getTimerCount()).toBe(0);
});
