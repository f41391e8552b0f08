import { expect, test } from "vitest";
import { interruptible } from "./interruption.ts";
import { Output } from "./report.ts";

test("the first Ctrl-C aborts the body's signal and says so; afterwards no handler is left", async () => {
  let notes = "";
  const sink = { write: (text: string) => (notes += text) };
  const output = new Output({ json: false, stdout: sink, stderr: sink, environment: {} });
  const handlers = process.listenerCount("SIGINT");
  const seen = await interruptible(output, "stopping", async (signal) => {
    expect(signal.aborted).toBe(false);
    process.emit("SIGINT");
    return signal.aborted;
  });
  expect(seen).toBe(true);
  expect(notes).toBe("stopping (again to stop at once)\n");
  expect(process.listenerCount("SIGINT")).toBe(handlers);
});

test("handlers are gone after a body that throws, too", async () => {
  const output = new Output({ json: true, stdout: process.stdout, stderr: process.stderr, environment: {} });
  const handlers = process.listenerCount("SIGTERM");
  const failing = interruptible(output, "stopping", async () => Promise.reject(new Error("full")));
  await expect(failing).rejects.toThrow("full");
  expect(process.listenerCount("SIGTERM")).toBe(handlers);
});
