/**
 * Calls MLflow's REST API, version 2.0. Sources: mlflow.org/docs/latest/rest-api.html and
 * mlflow/protos/service.proto.
 */
import { z } from "zod";
import type { MlflowSettings } from "./settings.ts";

export interface Metric {
  key: string;
  value: number;
  /** Milliseconds since 1970. */
  timestamp: number;
  step: number;
}

export interface KeyValue {
  key: string;
  value: string;
}

/** Content of one call of log-batch. */
export interface Batch {
  metrics: Metric[];
  params: KeyValue[];
  tags: KeyValue[];
}

/** Most metrics of one call; 100 params and 100 tags are the other limits. */
export const MOST_METRICS = 1000;
/** Longest value of a param that servers of any version take. */
export const MOST_PARAM_LENGTH = 500;

export type RunStatus = "RUNNING" | "FINISHED" | "FAILED" | "KILLED";

/** The server has answered that it does not take a call. `canRetry`: it may take the same call later. */
export class MlflowRefusal extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(`${status} ${code}: ${message}`);
    this.name = "MlflowRefusal";
    this.status = status;
    this.code = code;
  }

  /** Whether the call itself is wrong, so that no later try can succeed. */
  get isFinal(): boolean {
    return this.status >= 400 && this.status < 500 && ![401, 403, 408, 425, 429].includes(this.status);
  }
}

const Experiment = z.object({ experiment: z.object({ experiment_id: z.string() }) });
const NewExperiment = z.object({ experiment_id: z.string() });
const NewRun = z.object({ run: z.object({ info: z.object({ run_id: z.string() }) }) });
const FoundRuns = z.object({ runs: z.array(NewRun.shape.run).optional() });
const Fault = z.object({ error_code: z.string(), message: z.string().default("") });
const Anything = z.unknown();

const MOST_SHOWN = 300; // characters of an answer

export class MlflowClient {
  readonly #settings: MlflowSettings;
  readonly #callMs: number;

  /** callMs: how long a call may take. */
  constructor(settings: MlflowSettings, callMs: number) {
    this.#settings = settings;
    this.#callMs = callMs;
  }

  /** Returns the experiment's id, and makes the experiment if the server has none of its name. */
  async experimentId(signal: AbortSignal): Promise<string> {
    const { experiment } = this.#settings;
    if ("id" in experiment) return experiment.id;
    return (
      (await this.#experimentByName(experiment.name, signal)) ??
      (await this.#createExperiment(experiment.name, signal))
    );
  }

  async createRun(
    run: { experimentId: string; name: string; startMs: number; tags: KeyValue[] },
    signal: AbortSignal,
  ): Promise<string> {
    const { experimentId: experiment_id, name: run_name, startMs: start_time, tags } = run;
    const made = await this.#call(
      "runs/create",
      NewRun,
      { experiment_id, run_name, start_time, tags },
      signal,
    );
    return made.run.info.run_id;
  }

  /** Returns the run with this tag; undefined if there is none. */
  async runWithTag(
    experimentId: string,
    { key, value }: KeyValue,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const filter = `tags."${key}" = '${value}'`;
    const asked = { experiment_ids: [experimentId], filter, max_results: 1 };
    const { runs = [] } = await this.#call("runs/search", FoundRuns, asked, signal);
    return runs[0]?.info.run_id;
  }

  async logBatch(runId: string, batch: Batch, signal: AbortSignal): Promise<void> {
    await this.#call("runs/log-batch", Anything, { run_id: runId, ...batch }, signal);
  }

  async updateRun(
    runId: string,
    { status, endMs }: { status: RunStatus; endMs?: number },
    signal: AbortSignal,
  ): Promise<void> {
    const end = endMs === undefined ? {} : { end_time: endMs };
    await this.#call("runs/update", Anything, { run_id: runId, status, ...end }, signal);
  }

  async #experimentByName(name: string, signal: AbortSignal): Promise<string | undefined> {
    const query = `experiments/get-by-name?experiment_name=${encodeURIComponent(name)}`;
    try {
      return (await this.#call(query, Experiment, undefined, signal)).experiment.experiment_id;
    } catch (thrown) {
      if (thrown instanceof MlflowRefusal && thrown.code === "RESOURCE_DOES_NOT_EXIST") return undefined;
      throw thrown;
    }
  }

  async #createExperiment(name: string, signal: AbortSignal): Promise<string> {
    try {
      return (await this.#call("experiments/create", NewExperiment, { name }, signal)).experiment_id;
    } catch (thrown) {
      const isThere = thrown instanceof MlflowRefusal && thrown.code === "RESOURCE_ALREADY_EXISTS";
      const known = isThere ? await this.#experimentByName(name, signal) : undefined; // another run made it
      if (known === undefined) throw thrown;
      return known;
    }
  }

  /** Sends JSON, or asks if there is none. Follows no redirection, which would carry credentials away. */
  async #call<T>(path: string, answer: z.ZodType<T>, body: unknown, signal: AbortSignal): Promise<T> {
    const { uri, authorization } = this.#settings;
    const response = await fetch(`${uri}/api/2.0/mlflow/${path}`, {
      ...(body !== undefined && { method: "POST", body: JSON.stringify(body) }),
      headers: { "content-type": "application/json", ...(authorization && { authorization }) },
      redirect: "error",
      signal: AbortSignal.any([signal, AbortSignal.timeout(this.#callMs)]),
    });
    const text = await response.text();
    const value = jsonIn(text);
    if (!response.ok) {
      const fault = Fault.safeParse(value).data ?? { error_code: "", message: text.slice(0, MOST_SHOWN) };
      throw new MlflowRefusal(response.status, fault.error_code, fault.message);
    }
    const parsed = answer.safeParse(value);
    if (parsed.success) return parsed.data;
    throw new Error(`the answer is not MLflow's: ${text.slice(0, MOST_SHOWN)}`);
  }
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
