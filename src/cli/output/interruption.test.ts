import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from "vitest";
import { SAME_SIGNAL_MS } from "../../launch/exitCodes.ts";
import { interruptible, outliveReaders } from "./interruption.ts";
import { Output } from "./output.ts";

const terminal = vi.hoisted(() => ({ isThere: false }));
vi.mock("node:tty", () => ({ isatty: () => terminal.isThere }));

let notes = "";
const sink = { write: (text: string) => (notes += text) };
const output = new Output({ json: false, stdout: sink, stderr: sink, environment: {} });
let exit: MockInstance<typeof process.exit>;
beforeEach(() => {
  notes = "";
  exit = vi.spyOn(process, "exit").mockImplementation((() => {}) as never);
});
afterEach(() => {
  exit.mockRestore();
  terminal.isThere = false;
});

describe("Ctrl-C", () => {
  it("aborts the body's signal and says so; afterwards no handler is left", async () => {
    const handlers = process.listenerCount("SIGINT");
    const seen = await interruptible(output, "stopping", async ({ signal, listen }) => {
      listen();
      expect(signal.aborted).toBe(false);
      process.emit("SIGINT", "SIGINT");
      return signal.aborted;
    });
    expect(seen).toBe(true);
    expect(notes).toBe("stopping (again to stop at once)\n");
    expect(process.listenerCount("SIGINT")).toBe(handlers);
  });

  it("that comes twice at once, as under npx, is one; a later one ends the process", async () => {
    await interruptible(output, "stopping", async ({ listen }) => {
      listen();
      for (const signal of ["SIGINT", "SIGINT", "SIGTERM"] as const) process.emit(signal, signal);
      expect(exit).not.toHaveBeenCalled();
      await sleep(SAME_SIGNAL_MS + 20);
      process.emit("SIGINT", "SIGINT");
    });
    expect(exit).toHaveBeenCalledExactlyOnceWith(130);
  });

  it("is left to the system until the body listens, and after one that throws", async () => {
    const handlers = process.listenerCount("SIGTERM");
    const failing = interruptible(output, "stopping", async ({ listen }) => {
      expect(process.listenerCount("SIGTERM")).toBe(handlers);
      listen();
      expect(process.listenerCount("SIGTERM")).toBe(handlers + 1);
      throw new Error("full");
    });
    await expect(failing).rejects.toThrow("full");
    expect(process.listenerCount("SIGTERM")).toBe(handlers);
  });
});

it.each([true, false])(
  "a hang-up stops who has a terminal (%s), and ends it when it has saved, but no one who was started by nohup",
  async (isThere) => {
    terminal.isThere = isThere;
    const kill = vi.spyOn(process, "kill").mockReturnValue(true);
    const stopped = await interruptible(output, "stopping", async ({ signal, listen }) => {
      listen();
      terminal.isThere = false; // it has been closed
      process.emit("SIGHUP", "SIGHUP");
      return signal.aborted;
    });
    expect(stopped).toBe(isThere);
    expect(kill.mock.calls).toEqual(isThere ? [[process.pid, "SIGHUP"]] : []);
    kill.mockRestore();
  },
);

describe("output that can't be written", () => {
  const failure = (code: string): Error => Object.assign(new Error(`${code}: write`), { code });
  const streams = () => {
    const [stdout, stderr] = [new EventEmitter(), Object.assign(new EventEmitter(), sink)];
    outliveReaders({ stdout, stderr } as never);
    return { stdout, stderr };
  };

  it.each([
    ["EPIPE", 0, ""],
    ["ENOSPC", 1, "error: the output can't be written: ENOSPC: write\n"],
  ])("ends a command that has nothing to save: %s, exit code %i", (code, exitCode, said) => {
    streams().stdout.emit("error", failure(code));
    expect(exit).toHaveBeenCalledExactlyOnceWith(exitCode);
    expect(notes).toBe(said);
  });

  it("asks one that has something to save to stop, once, and leaves it the time for it", async () => {
    const { stdout } = streams();
    const stopped = await interruptible(output, "stopping", async ({ signal, listen }) => {
      listen();
      for (let writes = 0; writes < 3; writes++) stdout.emit("error", failure("EPIPE"));
      return signal.aborted;
    });
    expect(stopped).toBe(true);
    expect(notes).toBe("stopping (again to stop at once)\n");
    expect(exit).not.toHaveBeenCalled();
  });

  it("is no reason to stop where it is stderr's", async () => {
    const { stderr } = streams();
    const stopped = await interruptible(output, "stopping", async ({ signal, listen }) => {
      listen();
      stderr.emit("error", failure("EIO"));
      return signal.aborted;
    });
    expect(stopped).toBe(false);
    expect(exit).not.toHaveBeenCalled();
  });
});
