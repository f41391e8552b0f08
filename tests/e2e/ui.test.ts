/** `lorafit ui` on real runs of a very small model, asked as the page asks. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type {
  LiveRun,
  LogPage,
  RunDetail,
  RunEvent,
  RunList,
  RunSummary,
  StepPage,
} from "../../src/server/ui/api.ts";
import { golden } from "../helpers/shared.ts";
import { lorafit, PROGRAM } from "./lorafit.ts";

const folder = mkdtempSync(join(tmpdir(), "ui-"));
const outside = mkdtempSync(join(tmpdir(), "ui-outside-"));
const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) if (child.exitCode === null) child.kill("SIGKILL");
  for (const path of [folder, outside]) rmSync(path, { recursive: true, force: true });
});

let ui: ChildProcess;
let url: string;
let token: string;

/** Starts a command and returns it with its first line of output as JSON. */
async function started(args: string[]): Promise<{ child: ChildProcess; first: Record<string, string> }> {
  const child = spawn(process.execPath, [PROGRAM, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  let complaint = "";
  child.stderr?.on("data", (text) => {
    complaint += text;
  });
  const lines = createInterface(child.stdout!);
  const ended = once(child, "exit").then(() => {
    throw new Error(`lorafit ${args[0]} ended: ${complaint}`);
  });
  ended.catch(() => {});
  const [line] = (await Promise.race([once(lines, "line"), ended])) as [string];
  return { child, first: JSON.parse(line) };
}

function trainArgs(name: string, more: string[]): string[] {
  const data = ["--model", golden("tiny"), "--data", golden("tiny_cases/cases.jsonl")];
  return [
    "train",
    ...data,
    "--output",
    join(folder, name),
    "--gradient-accumulation",
    "1",
    "--json",
    ...more,
  ];
}

const ENDLESS = ["--max-steps", "1000000", "--save-every", "1000000"];

async function get<T>(path: string): Promise<T> {
  const answer = await fetch(`${url}/api/${path}`, { headers: { Authorization: `Bearer ${token}` } });
  const body = (await answer.json()) as { error?: string };
  if (!answer.ok) throw new Error(`${answer.status}: ${body.error}`);
  return body as T;
}

async function post(path: string): Promise<Response> {
  return fetch(`${url}/api/${path}`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: "{}",
  });
}

async function runNamed(name: string): Promise<RunSummary> {
  const { runs } = await get<RunList>("runs");
  return runs.find((run) => run.name === name)!;
}

/** Yields the events of a stream. */
async function* live(
  query: string,
  lastEventId?: string,
): AsyncGenerator<{ event: string; id: string; data: unknown }> {
  const stop = new AbortController();
  const headers = { Authorization: `Bearer ${token}`, ...(lastEventId && { "Last-Event-ID": lastEventId }) };
  const answer = await fetch(`${url}/api/live?${query}`, { headers, signal: stop.signal });
  let text = "";
  try {
    for await (const part of answer.body!.pipeThrough(new TextDecoderStream())) {
      text += part;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const fields = new Map(
          text
            .slice(0, end)
            .split("\n")
            .map((line) => line.split(/: (.*)/s) as [string, string]),
        );
        text = text.slice(end + 2);
        if (fields.has("event"))
          yield { event: fields.get("event")!, id: fields.get("id")!, data: JSON.parse(fields.get("data")!) };
      }
    }
  } finally {
    stop.abort();
  }
}

beforeAll(async () => {
  const done = lorafit(
    trainArgs("group/finished", [
      "--max-steps",
      "6",
      "--val-size",
      "2",
      "--eval-every",
      "3",
      "--lora-r",
      "4",
    ]),
  );
  expect(done.code, done.stderr).toBe(0);
  const { child, first } = await started(["ui", folder, "--port", "0", "--json"]);
  ui = child;
  ({ url, token } = first as { url: string; token: string });
});

describe("a finished run", () => {
  it("is listed with its options, losses, evaluations and peaks", async () => {
    const run = await runNamed("finished");
    expect(run).toMatchObject({
      path: "group/finished",
      state: "finished",
      step: 6,
      totalSteps: 6,
      stepDowns: 0,
    });
    expect(run.options).toMatchObject({ lora_r: 4, lora_alpha: 4, gradient_accumulation: 1 });
    expect(run.lossSparkline).toHaveLength(6);
    expect(run.lastEval).toMatchObject({ step: 6 });
    expect(run.bestEval!.loss).toBeLessThanOrEqual(run.lastEval!.loss);
    expect(run.peakBytes).toBeGreaterThan(0);
    expect(run.plannedPeakBytes ?? run.peakBytes).toBeGreaterThan(0);
  });

  it("has all its steps as columns, and those after a cursor alone", async () => {
    const { id } = await runNamed("finished");
    const records = readFileSync(join(folder, "group/finished/steps.jsonl"), "utf8").trimEnd().split("\n");
    const all = await get<StepPage>(`runs/${id}/steps`);
    expect(all.columns.step).toEqual([1, 2, 3, 4, 5, 6]);
    expect(all.columns.loss).toEqual(records.map((line) => JSON.parse(line).loss));
    expect((await get<StepPage>(`runs/${id}/steps?from=${all.next}`)).columns.step).toEqual([]);
    const few = await get<StepPage>(`runs/${id}/steps?points=3`);
    expect(few.columns.step.length).toBeLessThan(6);
    expect(few.total).toBe(6);
  });

  it("has a detail with its changed options, checkpoints and the commands that repeat it", async () => {
    const { id } = await runNamed("finished");
    const detail = await get<RunDetail>(`runs/${id}`);
    expect(detail.changedOptions).toEqual(expect.arrayContaining(["lora_r", "max_steps"]));
    expect(detail.changedOptions).not.toContain("max_grad_norm");
    expect(detail.checkpoints.at(-1)).toMatchObject({ name: "checkpoint-6", step: 6 });
    expect(detail.checkpoints.at(-1)!.bytes).toBeGreaterThan(1000);
    expect(detail.plan!.longest.tokens).toBeGreaterThan(0);
    expect(detail.process).toBeUndefined();
    expect(detail.commands.reproduce).toContain(
      `train --config ${join(folder, "group/finished/train.yaml")}`,
    );
    const { records } = await get<LogPage<RunEvent>>(`runs/${id}/events`);
    expect(records.map(({ fact }) => fact)).toEqual(
      expect.arrayContaining(["plan", "start", "checkpoint", "end"]),
    );
    const answers = await get<LogPage<{ expected: string }>>(`runs/${id}/answers`);
    expect(answers.records.length).toBeGreaterThan(0);
  });
});

it("a run is followed live from its first step, stopped, saved, and continued", {
  timeout: 240_000,
}, async () => {
  const list = await get<RunList>("runs");
  const { child } = await started(trainArgs("stopped", ENDLESS));
  const ended = once(child, "exit");
  let id: string | undefined;
  for await (const { event, data } of live(`list=${list.version}`)) {
    if (event !== "list") continue;
    const { changed } = data as { changed: RunSummary[] };
    id = changed.find(({ name }) => name === "stopped")?.id;
    if (id) break;
  }
  const steps: number[] = [];
  let place = "";
  let summary: RunSummary | undefined;
  const take = (run: LiveRun): void => {
    steps.push(...(run.steps?.step ?? []));
    summary = run.summary ?? summary;
  };
  for await (const { event, id: at, data } of live(`runs=${id}:`)) {
    if (event !== "run") continue;
    take(data as LiveRun);
    place = at;
    if (steps.length >= 3) break;
  }
  expect(summary).toMatchObject({ state: "running", totalSteps: 1_000_000 });
  expect((await get<RunDetail>(`runs/${id}`)).process).toMatchObject({ pid: child.pid, isHere: true });
  const stop = await post(`runs/${id}/stop`);
  expect(await stop.json()).toEqual({ stopping: true });
  expect((await ended)[0]).toBe(130);
  const events: string[] = [];
  for await (const { event, data } of live("", place)) {
    if (event !== "run") continue;
    take(data as LiveRun);
    events.push(...((data as LiveRun).events ?? []).map(({ fact }) => fact));
    if (summary?.state === "interrupted") break;
  }
  expect(events).toContain("end");
  expect(steps).toEqual(Array.from({ length: steps.length }, (_, at) => at + 1)); // none twice, none lost
  expect(steps.length).toBe((await runNamed("stopped")).step);
  const { commands, checkpoints } = await get<RunDetail>(`runs/${id}`);
  expect(commands.resume).toContain(`train --resume ${join(folder, "stopped")}`);
  expect(checkpoints).toHaveLength(1);
  expect(await (await post(`runs/${id}/stop`)).json()).toEqual({ stopping: false });
});

it("a run that is killed shows as crashed, without anyone telling", { timeout: 240_000 }, async () => {
  const list = await get<RunList>("runs");
  const { child } = await started(trainArgs("killed", ENDLESS));
  const seen: string[] = [];
  for await (const { event, data } of live(`list=${list.version}`)) {
    if (event !== "list") continue;
    const run = (data as { changed: RunSummary[] }).changed.find(({ name }) => name === "killed");
    if (!run) continue;
    seen.push(run.state);
    if (run.state === "running" && run.step > 0) child.kill("SIGKILL");
    if (run.state === "crashed") break;
  }
  expect(new Set(seen)).toEqual(new Set(["running", "crashed"]));
});

describe("safety", () => {
  /** Asks with a path as it is: fetch would tidy it. */
  const raw = (path: string): Promise<number> =>
    new Promise((resolve, reject) => {
      const { hostname, port } = new URL(url);
      const asked = request(
        { hostname, port, path, headers: { Authorization: `Bearer ${token}` } },
        (answer) => {
          answer.resume();
          answer.on("end", () => resolve(answer.statusCode!));
        },
      );
      asked.on("error", reject);
      asked.end();
    });

  it.each([
    "/../package.json",
    "/..%2f..%2fpackage.json",
    "/%2e%2e/main.js",
    "/assets/../../cli/main.js",
    "//etc/passwd",
    "/api/runs/..%2f..%2f",
    "/api/runs/%00",
    "/etc/passwd",
    "/\\..\\..\\x",
    "/%c0%ae%c0%ae/x",
  ])("no file is reached by the path %s", async (path) => {
    expect(await raw(path)).toBeGreaterThanOrEqual(400);
  });

  it("shows no picture that neither the run names nor FOLDER holds, by whichever way", async () => {
    const { id } = await runNamed("finished");
    const secret = join(outside, "secret.png");
    writeFileSync(secret, readFileSync(golden("tiny_cases/c2_img_1x1.img0.png")));
    symlinkSync(secret, join(folder, "group/finished/link.png"));
    symlinkSync(outside, join(folder, "group/out"));
    const ways = [
      secret,
      "link.png",
      "../../group/finished/link.png",
      join(folder, "group/out/secret.png"),
      "/etc/passwd",
      "train.yaml\0.png",
      `../../..${secret}`,
      "",
    ];
    for (const path of ways) {
      const asked = new URLSearchParams({ run: id, path });
      await expect(get(`picture?${asked}`), path).rejects.toThrow(/404/);
    }
    const asked = new URLSearchParams({ run: id, path: "train.yaml" });
    await expect(get(`picture?${asked}`)).rejects.toThrow(/422/); // below FOLDER, and no picture
  });

  it("follows no symbolic link to runs, and serves hostile names as text", async () => {
    const steps = readFileSync(join(folder, "group/finished/steps.jsonl"));
    mkdirSync(join(outside, "run"));
    writeFileSync(join(outside, "run/steps.jsonl"), steps);
    symlinkSync(join(outside, "run"), join(folder, "linked"));
    const name = "<script>alert(1)<";
    mkdirSync(join(folder, name));
    writeFileSync(join(folder, name, "steps.jsonl"), `${steps}{"step":"<img src=x>","loss":[]}\n\0\0{`);
    const answer = await fetch(`${url}/api/runs`, { headers: { Authorization: `Bearer ${token}` } });
    expect(answer.headers.get("content-type")).toContain("application/json");
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    const { runs } = (await answer.json()) as RunList;
    expect(runs.map((run) => run.name)).toContain(name);
    expect(runs.map((run) => run.name)).not.toContain("linked");
  });

  it("stops no process but the run's own: a lock with another start is not believed", async () => {
    const bystander = spawn("sleep", ["600"]);
    children.push(bystander);
    const output = join(folder, "forged");
    mkdirSync(output);
    const { hostname } = await import("node:os");
    for (const started of [null, "1"]) {
      writeFileSync(
        join(output, "run.lock"),
        JSON.stringify({ pid: bystander.pid, host: hostname(), started }),
      );
      await get("runs");
      const run = await runNamed("forged");
      const answer = await post(`runs/${run.id}/stop`);
      if (started === null) expect(answer.status).toBe(409);
      else expect(await answer.json()).toEqual({ stopping: false });
    }
    expect(bystander.exitCode).toBeNull();
    expect(bystander.signalCode).toBeNull();
  });
});

it("a port that is taken, and a folder that is missing, are errors that say what to do", () => {
  const taken = lorafit(["ui", folder, "--port", new URL(url).port]);
  expect(taken).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/another program uses this port[\s\S]*--port/),
  });
  const missing = lorafit(["ui", join(folder, "nowhere")]);
  expect(missing).toMatchObject({ code: 1, stderr: expect.stringContaining("there is no such file") });
});

it("ends on SIGTERM although a page follows it", async () => {
  const following = live("list=1");
  await following.next();
  const ended = once(ui, "exit");
  ui.kill("SIGTERM");
  expect(await ended).toEqual([0, null]);
});
