import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { randomLora, randomModel, smallConfig } from "../../tests/helpers/randomModel.ts";
import { answered, engineOver, generated, randomPicture, requestOf } from "../../tests/helpers/serving.ts";
import { writeAdapter } from "../checkpoint/adapter/peft.ts";
import { adapterFromLora, disposeLora, type Lora } from "../models/lora.ts";
import { liveTensors, memoryStats } from "../torch/device.ts";
import { dispose, scope } from "../torch/tensor.ts";
import type { Engine, ServeEvent, ServeRequest } from "./types.ts";

const config = smallConfig();
const model = randomModel(config, { dtype: "float32" });
const [lora, other] = [randomLora(config), randomLora(config, { seed: 9, rank: 2 })];
const root = mkdtempSync(join(tmpdir(), "engine-"));
const folderOf = (name: string): string => join(root, name);
let picture: string;
beforeAll(async () => {
  picture = await randomPicture(3);
  for (const [name, each] of [
    ["lora", lora],
    ["other", other],
  ] as [string, Lora][])
    scope(() => writeAdapter(folderOf(name), adapterFromLora(each, "tiny")));
});
afterAll(() => {
  disposeLora(lora);
  disposeLora(other);
  dispose(model);
  rmSync(root, { recursive: true });
});

const live = () => [memoryStats("cpu").liveBytes, liveTensors()];

/** Submits a request and returns its events as they come, with a way to wait for the first of them. */
async function begun(engine: Engine, request: ServeRequest, signal?: AbortSignal) {
  const { accepted, refusal } = await engine.submit(request, signal);
  if (refusal) throw refusal.error;
  const events: ServeEvent[] = [];
  let started = (): void => {};
  const first = new Promise<void>((resolve) => {
    started = resolve;
  });
  const all = (async () => {
    for await (const event of accepted.events) {
      events.push(event);
      started();
    }
    started();
    return events;
  })();
  return { events, first, all };
}

describe("adapters", () => {
  test("come and go while requests run, and one that is dropped serves its running requests to the end", async () => {
    const before = live();
    const engine = engineOver({ model });
    const request = requestOf(97, { tokens: 9, model: "a", maxNewTokens: 40 });
    expect((await engine.submit(request)).refusal).toMatchObject({ kind: "unknownModel", known: ["base"] });
    expect(await engine.addAdapter("a", folderOf("lora"))).toEqual({});
    const running = await begun(engine, request);
    await running.first;
    const dropped = engine.dropAdapter("a");
    expect(engine.models()).toEqual([{ name: "base" }]);
    expect((await engine.submit(request)).refusal?.kind).toBe("unknownModel");
    expect(await engine.addAdapter("a", folderOf("other"))).toEqual({});
    const [ofNew, ofOld] = await Promise.all([answered(engine, request), running.all, dropped]);
    expect(ofOld.flatMap((event) => (event.kind === "piece" ? event.ids : []))).toEqual(
      await generated(model, lora, request),
    );
    expect(ofNew.ids).toEqual(await generated(model, other, request));
    await engine.close();
    expect(live()).toEqual(before);
  });

  test("are refused if their name is taken, their folder is damaged or there is no room for them", async () => {
    const engine = engineOver({ model, loras: { a: lora }, parts: { adapterBytes: 2e4 } });
    expect((await engine.addAdapter("a", folderOf("other"))).refusal?.kind).toBe("invalid");
    expect((await engine.addAdapter("base", folderOf("other"))).refusal?.kind).toBe("invalid");
    expect((await engine.addAdapter("b", folderOf("nothing"))).refusal?.kind).toBe("invalid");
    const { refusal } = await engine.addAdapter("b", folderOf("lora"));
    expect(refusal?.kind).toBe("noRoom");
    expect(refusal?.error.message).toMatch(/needs .* left for adapters/);
    expect((await engine.dropAdapter("b")).refusal?.kind).toBe("unknownModel");
    await engine.close();
  });
});

describe("the order", () => {
  test("is that of coming: a large request is not passed by small ones that come after it", async () => {
    const engine = engineOver({ model, shape: { kvTokens: 600, maxTokens: 600, maxSequences: 8 } });
    const ends: string[] = [];
    const ask = async (name: string, tokens: number, maxNewTokens: number): Promise<void> => {
      await answered(engine, requestOf(97, { tokens, maxNewTokens, seed: tokens }));
      ends.push(name);
    };
    const first = ask("first", 300, 30);
    await setImmediate();
    const large = ask("large", 550, 2);
    await setImmediate();
    const small = Array.from({ length: 12 }, (_, index) => ask("small", 20 + index, 2));
    await Promise.all([first, large, ...small]);
    expect(ends.slice(0, 2)).toEqual(["first", "large"]);
    await engine.close();
  });

  test("goes on where the segment of a shared beginning takes the room that a request needs", async () => {
    const engine = engineOver({ model, shape: { kvTokens: 600, maxTokens: 600 } });
    const long = requestOf(97, { tokens: 300, maxNewTokens: 2 });
    const { prompt } = long as { prompt: { inputIds: Int32Array } };
    const begun = prompt.inputIds.subarray(0, 30);
    await answered(engine, long);
    const other = requestOf(97, { tokens: 500, seed: 2, maxNewTokens: 20 }) as typeof long & {
      prompt: typeof prompt;
    };
    const inputIds = Int32Array.of(...begun, ...other.prompt.inputIds.subarray(0, 500));
    const answer = await answered(engine, { ...other, prompt: { inputIds } });
    expect(answer.last).toMatchObject({ kind: "end", usage: { promptTokens: 530, cachedTokens: 0 } });
    expect(answer.ids).toEqual(await generated(model, undefined, { ...other, prompt: { inputIds } }));
    await engine.close();
  });

  test("leaves the event loop its turns: at least one for each layer of each token", async () => {
    const engine = engineOver({ model });
    let turns = 0;
    let isOver = false;
    const count = async (): Promise<void> => {
      for (; !isOver; turns++) await setImmediate();
    };
    const counting = count();
    await answered(engine, requestOf(97, { tokens: 9, maxNewTokens: 20 }));
    isOver = true;
    await counting;
    expect(turns).toBeGreaterThanOrEqual(20 * config.layers);
    await engine.close();
  });
});

describe("what is known", () => {
  test("of a prompt's beginning is not computed again, with the same adapter alone", async () => {
    const engine = engineOver({ model, loras: { lora } });
    const ask = (tokens: number, name?: string) =>
      answered(engine, requestOf(97, { tokens, images: [picture], ...(name && { model: name }) }));
    const cached = async (answer: ReturnType<typeof ask>) => {
      const { last } = await answer;
      return last.kind === "end" ? last.usage.cachedTokens : Number.NaN;
    };
    expect(await cached(ask(10))).toBe(0);
    expect(await cached(ask(30))).toBe(1 + 313 + 10); // the same seed: the same first ten
    expect(await cached(ask(10, "lora"))).toBe(0);
    expect(await cached(ask(10, "lora"))).toBe(313 + 10); // all but the last row
    await engine.close();
  });

  test("is shared by requests that come at the same time, so that more of them fit", async () => {
    const engine = engineOver({ model, shape: { kvTokens: 800, maxTokens: 800 } });
    const requests = [3, 4, 5, 6].map((seed) => requestOf(97, { tokens: 9, images: [picture], seed }));
    requests[0] = { ...requests[0]!, maxNewTokens: 60 };
    const all = Promise.all(requests.map((request) => answered(engine, request)));
    let most = 0;
    let isOver = false;
    const watch = (async () => {
      for (; !isOver; await setImmediate()) most = Math.max(most, engine.room().running);
    })();
    const answers = await all;
    isOver = true;
    await watch;
    expect(most).toBe(4); // alone, each needs more than 323 of the 800
    for (const [index, { ids }] of answers.entries())
      expect(ids).toEqual(await generated(model, undefined, requests[index]!));
    await engine.close();
  });
});

describe("a request", () => {
  test("that can never fit is refused with its tokens and the limit", async () => {
    const engine = engineOver({ model, shape: { kvTokens: 400, maxTokens: 400 } });
    const ask = (tokens: number, maxNewTokens: number) =>
      engine.submit(requestOf(97, { tokens, images: [picture], maxNewTokens }));
    const { refusal } = await ask(9, 78);
    expect(refusal).toMatchObject({ kind: "neverFits", tokens: 401, limitTokens: 400 });
    expect(refusal?.error.message).toContain("323 tokens and asks for 78 more");
    const { accepted } = await ask(9, 77);
    for await (const event of accepted!.events) expect(event.kind).not.toBe("failed");
    await engine.close();
  });

  test("with a broken picture fails by its own fault, with unknown ids it is refused, and others go on", async () => {
    const engine = engineOver({ model });
    const fine = await randomPicture(3);
    const bytes = Buffer.from(fine.split(",")[1]!, "base64");
    bytes.fill(7, bytes.indexOf("IDAT") + 4, bytes.length - 60); // header and end stay whole
    const broken = `data:image/png;base64,${bytes.toString("base64")}`;
    const other = answered(engine, requestOf(97, { tokens: 9, images: [fine] }));
    const { accepted, refusal } = await engine.submit(requestOf(97, { tokens: 9, images: [broken] }));
    const events: ServeEvent[] = [];
    for await (const event of accepted?.events ?? []) events.push(event);
    expect(refusal).toBeUndefined();
    expect(events).toMatchObject([{ kind: "failed", by: "request" }]);
    writeFileSync(join(root, "text.png"), "no picture");
    const none = await engine.submit(requestOf(97, { tokens: 9, images: [join(root, "text.png")] }));
    expect(none.refusal?.kind).toBe("invalid");
    const unknown = await engine.submit({ prompt: { inputIds: Int32Array.of(1, 97) } });
    expect(unknown.refusal?.error.message).toBe(
      "The prompt has token id 97; the model knows ids from 0 to 96.",
    );
    expect((await engine.submit({ prompt: { inputIds: new Int32Array() } })).refusal?.kind).toBe("invalid");
    expect((await other).last.kind).toBe("end");
    await engine.close();
  });

  test("with a number that makes no sense is refused", async () => {
    const engine = engineOver({ model });
    const wrong = [
      { maxNewTokens: 0 },
      { maxNewTokens: Number.NaN },
      { temperature: -1 },
      { topP: 0 },
      { repetitionPenalty: 0 },
      { limits: { hd_num: 0 } },
      { limits: { max_pixels: 200_704 } },
    ];
    for (const part of wrong) {
      const { refusal } = await engine.submit({
        ...requestOf(97, { tokens: 3, images: [picture] }),
        ...part,
      });
      expect(refusal?.kind, JSON.stringify(part)).toBe("invalid");
    }
    const limits = { hd_num: 1, max_pixels: 200_704 };
    const { refusal } = await engine.submit({ ...requestOf(97, { tokens: 3, images: [picture] }), limits });
    expect(refusal?.error).toMatchObject({
      message: "max_pixels does not limit the pictures of this model.",
      fix: "Leave it out; hd_num limits them.",
    });
    await engine.close();
  });

  test("ends before a stop id, and its answer may be sampled, always the same with one seed", async () => {
    const engine = engineOver({ model });
    const request = requestOf(97, { tokens: 9, temperature: 2, topP: 0.95, drawSeed: 3, ignoreEos: false });
    const stopped = { ...model.config, eosIds: (await generated(model, undefined, request)).slice(5, 6) };
    const ending = engineOver({ model: { ...model, config: stopped } });
    const [whole, again, short] = await Promise.all([
      answered(engine, request),
      answered(engine, request),
      answered(ending, request),
    ]);
    expect(whole.ids).toEqual(await generated(model, undefined, request));
    expect(again.ids).toEqual(whole.ids);
    expect((await answered(engine, { ...request, seed: 4 })).ids).not.toEqual(whole.ids);
    expect(short.ids).toEqual(whole.ids.slice(0, whole.ids.indexOf(stopped.eosIds[0]!)));
    expect(short.last).toMatchObject({ finishReason: "stop" });
    await Promise.all([engine.close(), ending.close()]);
  });
});

describe("closing", () => {
  test("lets accepted requests end and refuses others; or fails them at once", async () => {
    const before = live();
    for (const finish of [true, false]) {
      const engine = engineOver({ model, shape: { maxSequences: 1 } });
      const requests = [1, 2].map((seed) => requestOf(97, { tokens: 9, seed, maxNewTokens: 30 }));
      const all = await Promise.all(requests.map((request) => begun(engine, request)));
      await all[0]!.first;
      const closing = engine.close({ finish });
      expect((await engine.submit(requests[0]!)).refusal?.kind).toBe("closed");
      const kinds = (await Promise.all(all.map((each) => each.all))).map((events) => events.at(-1)?.kind);
      expect(kinds).toEqual(finish ? ["end", "end"] : ["failed", "failed"]);
      await closing;
    }
    expect(live()).toEqual(before);
  });

  test("refuses what would wait behind too many", async () => {
    const engine = engineOver({ model, shape: { maxSequences: 1 }, parts: { maxWaiting: 1 } });
    const request = requestOf(97, { tokens: 9, maxNewTokens: 30 });
    const running = await begun(engine, request);
    await running.first;
    const waiting = await begun(engine, request);
    expect((await engine.submit(request)).refusal).toMatchObject({ kind: "overloaded", waiting: 1 });
    await Promise.all([running.all, waiting.all]);
    await engine.close();
  });
});
