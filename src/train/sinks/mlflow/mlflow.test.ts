import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { UserError } from "../../../errors.ts";
import type { Fact, RunFact, RunSink } from "../../facts/runFact.ts";
import type { StepRecord } from "../../folder/runLog.ts";
import { mlflowSink, sendLeft } from "./mlflow.ts";
import { type MlflowSettings, mlflowSettings } from "./settings.ts";
import { Spool } from "./spool.ts";

const PACE = { betweenMs: 1, firstRetryMs: 5, mostRetryMs: 20 };

interface Call {
  path: string;
  // biome-ignore lint/suspicious/noExplicitAny: a body of the protocol
  body: any;
  authorization: string | undefined;
}

/** A server that takes MLflow's calls and keeps them. `answer` may answer otherwise. */
class Fake {
  calls: Call[] = [];
  answer: ((call: Call, response: ServerResponse) => boolean) | undefined;
  readonly #server: Server = createServer((request, response) => void this.#take(request, response));
  readonly #waiting: { until: () => boolean; done: () => void }[] = [];

  async listen(port = 0): Promise<number> {
    await new Promise<void>((done) => this.#server.listen(port, "127.0.0.1", done));
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }

  /** Waits until the calls so far satisfy a condition. */
  async when(until: () => boolean): Promise<void> {
    if (!until()) await new Promise<void>((done) => this.#waiting.push({ until, done }));
  }

  /** Metrics that were taken, by name, as [step, value]. */
  metrics(): Record<string, [number, number][]> {
    const all: Record<string, [number, number][]> = {};
    for (const { body } of this.calls.filter(({ path }) => path === "runs/log-batch"))
      for (const { key, step, value } of body.metrics) all[key] = [...(all[key] ?? []), [step, value]];
    return all;
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = "";
    for await (const chunk of request) text += chunk;
    const path = request.url!.replace("/api/2.0/mlflow/", "").replace(/\?.*/, "");
    const call = {
      path,
      body: text === "" ? undefined : JSON.parse(text),
      authorization: request.headers.authorization,
    };
    if (!this.answer?.(call, response)) {
      this.calls.push(call);
      const answers: Record<string, unknown> = {
        "experiments/get-by-name": { experiment: { experiment_id: "3" } },
        "runs/create": { run: { info: { run_id: "run-1" } } },
      };
      response.end(JSON.stringify(answers[path] ?? {}));
    }
    for (const one of this.#waiting) if (one.until()) one.done();
  }
}

let [folder, fake, settings]: [string, Fake, MlflowSettings] = ["", new Fake(), {} as MlflowSettings];
let notices: string[] = [];
const notice = (text: string): void => void notices.push(text);

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "mlflow-"));
  fake = new Fake();
  notices = [];
  settings = mlflowSettings({
    MLFLOW_TRACKING_URI: `http://127.0.0.1:${await fake.listen()}/`,
    MLFLOW_TRACKING_TOKEN: "s3cret",
  });
});
afterEach(async () => {
  await fake.close();
  rmSync(folder, { recursive: true });
});

function sink(more: { callMs?: number; endMs?: number } = {}): RunSink {
  return mlflowSink({ settings, output: folder, notice, pace: PACE, callMs: 60_000, endMs: 60_000, ...more });
}

const at = (fact: Fact): RunFact => ({ atMs: 1_700_000_000_000, ...fact });
const START = at({
  fact: "start",
  // biome-ignore lint/suspicious/noExplicitAny: only some of the options matter here
  options: { model: "tiny", lora_r: 8, data: ["a.txt"], lora_targets: "x".repeat(900) } as any,
  ...{ step: 0, totalSteps: 4, samples: 4, stepsBefore: [] },
});
const END = at({ fact: "end", ended: "finished", step: 4, adapter: "a" });

function step(number: number, loss = number): RunFact {
  const record = { step: number, loss, gradNorm: 1, lr: 1e-4, tokens: 10, epoch: 0 } as StepRecord;
  return at({ fact: "step", record, totalSteps: 4, peaks: {} as never });
}

describe("a run that reports to MLflow", () => {
  it("is made with its options, gets every step's numbers in order, and ends as it ended", async () => {
    const report = sink();
    for (const fact of [START, step(1), step(2), step(3), END]) await report.take(fact);
    const [experiment, made, params] = fake.calls;
    expect([experiment!.path, made!.path]).toEqual(["experiments/get-by-name", "runs/create"]);
    expect(made!.body).toMatchObject({ experiment_id: "3", start_time: START.atMs });
    const options = Object.fromEntries(
      params!.body.params.map(({ key, value }: Record<string, string>) => [key, value]),
    );
    expect(options).toMatchObject({ model: "tiny", lora_r: "8", data: '["a.txt"]' });
    expect(options.lora_targets).toHaveLength(500);
    expect(fake.metrics().loss).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
    expect(fake.metrics().learning_rate).toHaveLength(3);
    expect(fake.calls.at(-1)).toMatchObject({
      path: "runs/update",
      body: { run_id: "run-1", status: "FINISHED" },
    });
    expect(new Set(fake.calls.map(({ authorization }) => authorization))).toEqual(new Set(["Bearer s3cret"]));
    expect(notices).toEqual([]);
    for (const file of ["mlflow.json", "mlflow.jsonl"])
      expect(readFileSync(join(folder, file), "utf8")).not.toContain("s3cret");
  });

  it("puts at most 1,000 metrics into a call", async () => {
    const report = sink();
    for (const fact of [START, ...Array.from({ length: 700 }, (_, index) => step(index + 1)), END])
      await report.take(fact);
    const sizes = fake.calls.flatMap(({ path, body }) =>
      path === "runs/log-batch" ? [body.metrics.length] : [],
    );
    expect(Math.max(...sizes)).toBeLessThanOrEqual(1000);
    expect(fake.metrics().loss!.map(([number]) => number)).toEqual(
      Array.from({ length: 700 }, (_, index) => index + 1),
    );
  });

  it("goes on while the server is down, and sends later what the server missed, also after a resume", async () => {
    await fake.close();
    const report = sink();
    for (const fact of [
      START,
      step(1),
      step(2),
      at({ fact: "end", ended: "interrupted", step: 2, checkpoint: "c" }),
    ])
      await report.take(fact);
    expect(notices[0]).toContain("can't be reached");
    expect(notices.at(-1)).toContain("--send");
    fake = new Fake();
    await fake.listen(Number(new URL(settings.uri).port));
    const again = sink();
    // the checkpoint was of step 1, so step 2 comes again
    for (const fact of [{ ...START, step: 1 }, step(2), step(3), END]) await again.take(fact as RunFact);
    expect(fake.metrics().loss).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
    const statuses = fake.calls.flatMap(({ path, body }) => (path === "runs/update" ? [body.status] : []));
    expect(statuses).toEqual(["KILLED", "RUNNING", "FINISHED"]);
    expect(fake.calls.filter(({ path }) => path === "runs/create")).toHaveLength(1);
  });

  it("is continued under the same run of the server, without its options again", async () => {
    const first = sink();
    for (const fact of [START, step(1), at({ fact: "end", ended: "interrupted", step: 1, checkpoint: "c" })])
      await first.take(fact);
    const second = sink();
    for (const fact of [{ ...START, step: 1 }, step(2), END]) await second.take(fact as RunFact);
    expect(fake.calls.filter(({ path }) => path === "runs/create")).toHaveLength(1);
    expect(fake.calls.filter(({ body }) => body?.params?.length > 0)).toHaveLength(1);
    expect(fake.metrics().loss).toEqual([
      [1, 1],
      [2, 2],
    ]);
  });

  it("waits for no answer: a server that never answers stops no step, and the end waits as long as it may", async () => {
    const held: ServerResponse[] = [];
    fake.answer = (_, response) => held.push(response) > 0;
    const report = sink({ endMs: 10 });
    for (const fact of [START, step(1)]) await report.take(fact);
    await fake.when(() => held.length > 0);
    for (const fact of [step(2), step(3), END]) await report.take(fact);
    expect(held).toHaveLength(1);
    const next = vi.spyOn(Spool.prototype, "next");
    for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(next).not.toHaveBeenCalled(); // nothing goes on that would keep the process
    next.mockRestore();
    expect(notices.at(-1)).toContain("are not sent");
    fake.answer = undefined;
    expect(await sendLeft(folder, { settings, notice })).toMatchObject({ leftBytes: 0 });
    expect(fake.metrics().loss).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
  });

  it("tries again after an error of the server, and says once that it does", async () => {
    let failures = 3;
    fake.answer = ({ path }, response) => {
      if (path !== "runs/log-batch" || failures-- <= 0) return false;
      response.statusCode = 503;
      response.end("busy");
      return true;
    };
    const report = sink();
    for (const fact of [START, step(1)]) await report.take(fact);
    await fake.when(() => fake.metrics().loss !== undefined);
    await report.take(END);
    expect(notices.map((text) => text.slice(0, 40))).toEqual([
      expect.stringContaining("MLflow: the server does not take"),
      expect.stringContaining("MLflow: the server answers again"),
    ]);
  });

  it("lacks what the server refuses for good, and goes on with the rest", async () => {
    fake.answer = ({ body }, response) => {
      if (!body?.params?.length) return false;
      response.statusCode = 400;
      response.end(JSON.stringify({ error_code: "INVALID_PARAMETER_VALUE", message: "too long" }));
      return true;
    };
    const report = sink();
    for (const fact of [START, step(1), step(2), END]) await report.take(fact);
    expect(fake.metrics().loss).toEqual([
      [1, 1],
      [2, 2],
    ]);
    expect(notices).toEqual([expect.stringContaining("INVALID_PARAMETER_VALUE: too long")]);
  });

  it("is one run of the server, though the answer to its making was lost", async () => {
    let made = 0;
    fake.answer = ({ path, body }, response) => {
      if (path === "runs/search") response.end(JSON.stringify({ runs: [{ info: { run_id: "run-0" } }] }));
      else if (path === "runs/create" && body.tags.length > 1) {
        made += 1;
        response.destroy();
      } else return false;
      return true;
    };
    const report = sink();
    for (const fact of [START, step(1)]) await report.take(fact);
    await fake.when(() => fake.metrics().loss !== undefined);
    await report.take(END);
    expect(made).toBe(1);
    expect(fake.calls.at(-1)).toMatchObject({ path: "runs/update", body: { run_id: "run-0" } });
  });

  it("follows no redirection, which would carry the token elsewhere", async () => {
    const elsewhere = new Fake();
    const port = await elsewhere.listen();
    fake.answer = (_, response) => {
      response.writeHead(307, { location: `http://127.0.0.1:${port}/` }).end();
      return true;
    };
    const report = sink({ endMs: 50 });
    for (const fact of [START, END]) await report.take(fact);
    expect(elsewhere.calls).toEqual([]);
    await elsewhere.close();
  });
});

it("a line that a crash has cut off costs that line alone", async () => {
  const run = { uri: "http://x", name: "n", startMs: 0 };
  const spool = await Spool.open(folder, run);
  await spool.add({ metrics: [{ key: "loss", value: 1, timestamp: 0, step: 1 }] });
  const { appendFileSync } = await import("node:fs");
  appendFileSync(join(folder, "mlflow.jsonl"), '{"metrics":[{"key":"lo');
  const again = await Spool.open(folder, run);
  await again.add({ metrics: [{ key: "loss", value: 2, timestamp: 0, step: 2 }] });
  const parcel = await again.next();
  expect(parcel && "batch" in parcel && parcel.batch.metrics.map(({ step: number }) => number)).toEqual([
    1, 2,
  ]);
  expect([again.has("train", 2), again.has("train", 3), again.has("eval", 1)]).toEqual([true, false, false]);
});

describe("the settings", () => {
  it("are those of MLflow's own clients", () => {
    const known = mlflowSettings({
      MLFLOW_TRACKING_URI: "https://me:pass%20word@host:8080/tracking/",
      ...{ MLFLOW_EXPERIMENT_NAME: "pages", MLFLOW_RUN_NAME: "r16", MLFLOW_RUN_ID: "abc" },
    });
    expect(known).toEqual({
      uri: "https://host:8080/tracking",
      authorization: `Basic ${Buffer.from("me:pass word").toString("base64")}`,
      ...{ experiment: { name: "pages" }, runName: "r16", runId: "abc" },
    });
    expect(mlflowSettings({ MLFLOW_TRACKING_URI: "http://h", MLFLOW_EXPERIMENT_ID: "7" })).toMatchObject({
      ...{ experiment: { id: "7" }, authorization: undefined, runId: undefined },
    });
  });

  it.each([undefined, "", "sqlite:///mlflow.db", "file:///tmp/mlruns", "databricks", "./mlruns"])(
    "are an error without an address of HTTP: %s",
    (uri) => {
      expect(() => mlflowSettings({ MLFLOW_TRACKING_URI: uri })).toThrow(UserError);
    },
  );
});
