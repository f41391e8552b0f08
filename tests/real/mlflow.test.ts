/** A real MLflow server on SQLite takes what a run reports, though it may be down, slow, or never answer. */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, request } from "node:http";
import type { AddressInfo, Server, Socket } from "node:net";
import { createServer as createTcpServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { StepRecord } from "../../src/train/folder/runLog.ts";
import { PROGRAM } from "../e2e/lorafit.ts";
import { freePort, inVenv, ran, type StartedServer, startServer } from "./python.ts";
import { makeWorkshop } from "./tinyRuns.ts";

const workshop = makeWorkshop();
const port = await freePort();
const uri = `http://127.0.0.1:${port}`;
const EXPERIMENT = "pages";

function startMlflow(): StartedServer {
  const store = ["--backend-store-uri", `sqlite:///${join(workshop.folder, "mlflow.db")}`];
  const artifacts = ["--default-artifact-root", join(workshop.folder, "artifacts")];
  return startServer(inVenv("mlflow"), [
    "server",
    ...store,
    ...artifacts,
    "--host",
    "127.0.0.1",
    "--port",
    String(port),
    "--workers",
    "1",
  ]);
}

async function isUp(server: StartedServer): Promise<void> {
  await server.until(async () => {
    const answer = await fetch(`${uri}/health`).catch(() => undefined);
    return answer?.ok || undefined;
  });
}

let server: StartedServer;
beforeAll(async () => {
  server = startMlflow();
  await isUp(server);
});

interface MlflowRun {
  info: { run_id: string; run_name: string; status: string };
  data: { params?: { key: string; value: string }[]; metrics?: { key: string }[] };
}

async function call<T>(path: string, body?: unknown): Promise<T> {
  const answer = await fetch(`${uri}/api/2.0/mlflow/${path}`, {
    ...(body !== undefined && { method: "POST", body: JSON.stringify(body) }),
    headers: { "content-type": "application/json" },
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as T;
}

/** Runs of this name on the server. */
async function runsNamed(name: string): Promise<MlflowRun[]> {
  const query = `experiments/get-by-name?experiment_name=${EXPERIMENT}`;
  const { experiment } = await call<{ experiment: { experiment_id: string } }>(query);
  const found = await call<{ runs?: MlflowRun[] }>("runs/search", {
    experiment_ids: [experiment.experiment_id],
    filter: `attributes.run_name = '${name}'`,
  });
  return found.runs ?? [];
}

/** Steps and values of a metric. */
async function history(runId: string, metric: string): Promise<[number, number][]> {
  const query = `metrics/get-history?run_id=${runId}&metric_key=${metric}`;
  const { metrics } = await call<{ metrics: { step: number | string; value: number }[] }>(query);
  return metrics
    .map(({ step, value }): [number, number] => [Number(step), value])
    .sort(([one], [other]) => one - other);
}

const stepsOf = (output: string): StepRecord[] =>
  readFileSync(join(output, "steps.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

const env = (tracking = uri): NodeJS.ProcessEnv => ({
  ...{ MLFLOW_TRACKING_URI: tracking, MLFLOW_EXPERIMENT_NAME: EXPERIMENT, OMP_WAIT_POLICY: "PASSIVE" },
});

function argsOf(name: string, more: readonly string[] = []): string[] {
  const { model, data } = workshop;
  const shape = [
    "--hd-num",
    "1",
    "--memory",
    "64MiB",
    "--gradient-accumulation",
    "1",
    "--lora-r",
    "8",
    "--max-steps",
    "6",
  ];
  return [
    PROGRAM,
    "train",
    "--model",
    model,
    "--data",
    data,
    "--output",
    join(workshop.folder, name),
    ...shape,
    "--report-to",
    "mlflow",
    ...more,
  ];
}

const lorafit = (args: readonly string[], tracking = uri) => ran(process.execPath, args, env(tracking));

/** Sends what a busy machine had no time for at the end of a run. */
async function sendRest(name: string): Promise<void> {
  expect((await lorafit([PROGRAM, "report", join(workshop.folder, name), "--send"])).code).toBe(0);
}

async function expectWhole(name: string): Promise<MlflowRun> {
  const runs = await runsNamed(name);
  expect(runs).toHaveLength(1);
  const [run] = runs;
  const steps = stepsOf(join(workshop.folder, name));
  expect(await history(run!.info.run_id, "loss")).toEqual(steps.map(({ step, loss }) => [step, loss]));
  expect(await history(run!.info.run_id, "learning_rate")).toEqual(steps.map(({ step, lr }) => [step, lr]));
  expect(run!.info.status).toBe("FINISHED");
  const params = Object.fromEntries(run!.data.params!.map(({ key, value }) => [key, value]));
  expect(params).toMatchObject({ lora_r: "8", max_steps: "6", dtype: "fp32" });
  return run!;
}

it("takes a run: options, every number of every step, evaluations, and that it finished", async () => {
  const evaluated = ["--eval-data", workshop.evalData, "--eval-every", "3"];
  expect((await lorafit(argsOf("whole", evaluated))).code).toBe(0);
  await sendRest("whole");
  const { info } = await expectWhole("whole");
  expect((await history(info.run_id, "eval_loss")).map(([step]) => step)).toEqual([3, 6]);
});

it("has one run with each step once after a stop and a resume", async () => {
  expect((await lorafit(argsOf("resumed", ["--stop-at-step", "4"]))).code).toBe(0);
  await sendRest("resumed");
  const [before] = await runsNamed("resumed");
  expect(before!.info.status).toBe("KILLED");
  expect((await lorafit(argsOf("resumed", ["--resume"]))).code).toBe(0);
  await sendRest("resumed");
  const { info } = await expectWhole("resumed");
  expect(info.run_id).toBe(before!.info.run_id);
});

it("gets later what it missed while it was down, by `lorafit report --send`", async () => {
  await server.stop();
  const { code, stderr } = await lorafit(argsOf("missed"));
  expect(code).toBe(0);
  expect(stderr).toContain("MLflow: the server can't be reached");
  expect(stderr).toContain("--send");
  expect(stepsOf(join(workshop.folder, "missed"))).toHaveLength(6);
  const send = [PROGRAM, "report", join(workshop.folder, "missed"), "--send"];
  expect((await lorafit(send)).code).toBe(1);
  server = startMlflow();
  await isUp(server);
  const sent = await lorafit(send);
  expect([sent.code, sent.stdout]).toEqual([0, expect.stringContaining("MLflow has everything now")]);
  await expectWhole("missed");
  expect((await lorafit(send)).stdout).toContain("MLflow has everything already");
});

it("a server that takes connections and never answers stops no run", async () => {
  const sockets: Socket[] = [];
  const silent = createTcpServer((socket) => void sockets.push(socket.on("error", () => {})));
  closers.push(() => {
    for (const socket of sockets) socket.destroy();
    silent.close();
  });
  const silentPort = await listening(silent);
  const { code, stderr } = await lorafit(argsOf("silent"), `http://127.0.0.1:${silentPort}`);
  expect([code, stderr]).toEqual([0, expect.stringContaining("--send")]);
  expect(sockets.length).toBeGreaterThan(0);
  expect(stepsOf(join(workshop.folder, "silent"))).toHaveLength(6);
  const sent = await lorafit([PROGRAM, "report", join(workshop.folder, "silent"), "--send"]);
  expect(sent.code).toBe(0);
  await expectWhole("silent");
});

it("a slow server gets everything", async () => {
  const slow = createServer((asked, response) => {
    setTimeout(() => {
      const passed = request(
        `${uri}${asked.url}`,
        { method: asked.method!, headers: { ...asked.headers, host: `127.0.0.1:${port}` } },
        (answer) => {
          response.writeHead(answer.statusCode!, answer.headers);
          answer.pipe(response);
        },
      );
      asked.pipe(passed);
    }, 400);
  });
  closers.push(() => void slow.close());
  const slowPort = await listening(slow);
  const tracking = `http://127.0.0.1:${slowPort}`;
  expect((await lorafit(argsOf("slow"), tracking)).code).toBe(0);
  expect((await lorafit([PROGRAM, "report", join(workshop.folder, "slow"), "--send"], tracking)).code).toBe(
    0,
  );
  await expectWhole("slow");
});

/** Makes a server listen on a free port, and returns the port. */
async function listening(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

const closers: (() => void)[] = [];
afterAll(() => {
  for (const close of closers) close();
});
