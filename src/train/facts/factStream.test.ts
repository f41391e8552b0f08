import { describe, expect, it } from "vitest";
import { FactStream } from "./factStream.ts";
import type { RunFact, RunSink } from "./runFact.ts";

const CHECKPOINT = { fact: "checkpoint", step: 1, folder: "checkpoint-1" } as const;

describe("a stream of facts", () => {
  it("hands each fact to its sinks in their order, waits for each, and says when it was", async () => {
    const taken: string[] = [];
    const sink = (name: string, ms: number): RunSink => ({
      async take({ fact, atMs }) {
        await new Promise((resolve) => setTimeout(resolve, ms));
        taken.push(`${name} ${fact} ${Math.abs(Date.now() - atMs) < 60_000}`);
      },
    });
    const stream = new FactStream([sink("slow", 5), sink("fast", 0)]);
    await stream.send(CHECKPOINT);
    await stream.send({ fact: "check", done: 1, total: 1 });
    expect(taken).toEqual(
      ["slow", "fast"]
        .map((name) => `${name} checkpoint true`)
        .concat(["slow check true", "fast check true"]),
    );
  });

  it("hands a fact to sinks that do not wait before say() returns", () => {
    const facts: RunFact[] = [];
    new FactStream([{ take: (fact) => void facts.push(fact) }]).notice("text", "idleCard");
    expect(facts).toEqual([expect.objectContaining({ fact: "notice", text: "text", about: "idleCard" })]);
  });

  it("hands said facts to each sink in order, and lets no sink wait for another", async () => {
    const [slow, quick]: [string[], string[]] = [[], []];
    const held: (() => void)[] = [];
    const stream = new FactStream([
      {
        take: async (fact) => {
          await new Promise<void>((resolve) => held.push(resolve));
          slow.push(fact.fact);
        },
      },
      { take: (fact) => void quick.push(fact.fact) },
    ]);
    stream.notice("one");
    stream.say({ fact: "check", done: 1, total: 1 });
    const sent = stream.send(CHECKPOINT);
    expect(quick).toEqual(["notice", "check"]);
    expect(held).toHaveLength(1);
    for (let facts = 1; facts <= 3; facts++) {
      held[facts - 1]!();
      await expect.poll(() => slow.length).toBe(facts);
    }
    await sent;
    expect(slow).toEqual(["notice", "check", "checkpoint"]);
    expect(quick).toEqual(["notice", "check", "checkpoint"]);
  });

  it.each([
    [
      "at once",
      () => {
        throw new Error("no room");
      },
    ],
    ["later", () => Promise.reject(new Error("no room"))],
  ])("throws what a sink throws: %s, from code that can't wait at the next fact, once", async (_, take) => {
    const stream = new FactStream([{ take: (fact) => (fact.fact === "notice" ? take() : undefined) }]);
    await expect(stream.send({ fact: "notice", text: "" })).rejects.toThrow("no room");
    stream.notice("");
    await new Promise((resolve) => setImmediate(resolve));
    await expect(stream.send(CHECKPOINT)).rejects.toThrow("no room");
    await stream.send(CHECKPOINT);
  });
});
