/** Reports a run to an MLflow server: its options as params, its numbers as metrics, and how it ended. */
import { basename } from "node:path";
import { formatBytes } from "../../../errors.ts";
import { commandLine, quoted } from "../../../program.ts";
import type { RunFact, RunSink, StartFact } from "../../facts/runFact.ts";
import { type Logs, logsOfEvaluation, logsOfStep } from "../logs.ts";
import { type KeyValue, MlflowClient, MOST_PARAM_LENGTH, type RunStatus } from "./client.ts";
import { type Pace, Sender } from "./sender.ts";
import type { MlflowSettings } from "./settings.ts";
import { Spool, type SpoolRecord } from "./spool.ts";

export interface MlflowSinkOptions {
  settings: MlflowSettings;
  output: string;
  notice: (text: string) => void;
  /** Milliseconds that a call may take, and that the end of a run waits for what is left. */
  callMs?: number;
  endMs?: number;
  pace?: Pace;
}

const [CALL_MS, END_MS] = [10_000, 3000] as const;
/** Longest time for sending what a run has left. */
const SEND_MS = 24 * 3600 * 1000;
const STATUS = { finished: "FINISHED", interrupted: "KILLED", failed: "FAILED" } as const satisfies Record<
  string,
  RunStatus
>;

/** Makes the sink of a run. Nothing waits for the server but the run's end, for a moment. */
export function mlflowSink({
  settings,
  output,
  notice,
  callMs = CALL_MS,
  endMs = END_MS,
  pace,
}: MlflowSinkOptions): RunSink {
  let spool: Spool | undefined;
  let sender: Sender | undefined;
  const add = async (record: SpoolRecord): Promise<void> => {
    await spool!.add(record);
    sender!.send();
  };
  const addLogs = async (
    kind: "train" | "eval",
    { atMs }: RunFact,
    step: number,
    logs: Logs,
  ): Promise<void> => {
    if (spool!.has(kind, step)) return;
    const metrics = Object.entries(logs).map(([key, value]) => ({ key, value, timestamp: atMs, step }));
    await add({ metrics });
  };
  return {
    async take(fact) {
      if (fact.fact === "start") {
        const { uri, runId, runName = basename(output) } = settings;
        const run = { uri, name: runName, startMs: fact.atMs, ...(runId !== undefined && { runId }) };
        spool = await Spool.open(output, run);
        const client = new MlflowClient(settings, callMs);
        sender = new Sender({ client, spool, notice, ...(pace && { pace }) });
        if (spool.isNew)
          await add({ params: paramsOf(fact), tags: [{ key: "lorafit.output", value: output }] });
        else await add({ status: "RUNNING" });
      } else if (!spool || !sender)
        return; // the run has not begun
      else if (fact.fact === "step") await addLogs("train", fact, fact.record.step, logsOfStep(fact.record));
      else if (fact.fact === "eval")
        await addLogs("eval", fact, fact.record.step, logsOfEvaluation(fact.record));
      else if (fact.fact === "end") {
        await add({ status: STATUS[fact.ended], endMs: fact.atMs });
        if (!(await sender.end(endMs))) notice(keptWords(spool, output));
      }
    },
  };
}

/** Returns the options as texts. A list is written as JSON. */
function paramsOf({ options }: StartFact): KeyValue[] {
  return Object.entries(options)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ({ key, value: cut(typeof value === "string" ? value : JSON.stringify(value)) }));
}

function cut(text: string): string {
  return text.length > MOST_PARAM_LENGTH ? `${text.slice(0, MOST_PARAM_LENGTH - 3)}...` : text;
}

function keptWords({ unsentBytes }: Spool, output: string): string {
  return `MLflow: ${formatBytes(unsentBytes)} of records are not sent. Send them when the server is there: ${commandLine(`report ${quoted(output)} --send`)}`;
}

/**
 * Sends what a run could not send. Returns the bytes that were sent, and those that are left; undefined if
 * the run did not report to MLflow.
 */
export async function sendLeft(
  output: string,
  { settings, notice, callMs = CALL_MS }: Omit<MlflowSinkOptions, "output">,
): Promise<{ sentBytes: number; leftBytes: number } | undefined> {
  const spool = await Spool.left(output, settings.uri);
  if (!spool) return undefined;
  const before = spool.unsentBytes;
  const sender = new Sender({ client: new MlflowClient(settings, callMs), spool, notice });
  await sender.end(SEND_MS);
  return { sentBytes: before - spool.unsentBytes, leftBytes: spool.unsentBytes };
}
