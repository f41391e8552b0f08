/** Reads what a page about one run shows besides its curves. */
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { commandLine, quoted } from "../program.ts";
import type { Category } from "../torch/device.ts";
import type { LoggedFact, PlanFact } from "../train/facts/runFact.ts";
import { ADAPTER_FOLDER, BEST_FOLDER, FACTS_FILE, OPTIONS_FILE } from "../train/folder/runLog.ts";
import { MEMORY_FILE } from "../train/folder/stepMemory.ts";
import { type TrainInput, trainOptions } from "../train/options/options.ts";
import type { KnownRun } from "./knownRun.ts";
import { type Cursor, parseLines, readAppended } from "./logTail.ts";
import type { CheckpointInfo, Headroom, RunCommands, RunDetail, RunEvent, RunSummary } from "./runView.ts";

/** Reads the detail of a run. summary: of the run as it is now. */
export function runDetail(run: KnownRun, summary: RunSummary): RunDetail {
  const { folder, digest } = run;
  const plan = lastPlan(folder);
  const [adapter, best] = [ADAPTER_FOLDER, BEST_FOLDER].map((name) => folderIn(folder, name));
  const headroom = headroomOf(run, plan);
  return {
    ...{ summary, folder },
    changedOptions: changedOptions(summary.options),
    ...(plan && { plan }),
    checkpoints: checkpointsIn(folder),
    ...(adapter !== undefined && { adapter }),
    ...(best !== undefined && { best }),
    commands: commandsOf(folder, summary, best ?? adapter),
    slowest: digest.steps.slowest,
    longest: plan ? [plan.longest] : [],
    ...(headroom && { headroom }),
    hasMemory: sizeOf(join(folder, MEMORY_FILE)) > 0,
    ...(run.holder && { process: { pid: run.holder.pid, host: run.holder.host, isHere: run.holder.isHere } }),
  };
}

/** Reads the events of a run after a cursor. */
export function readEvents(
  folder: string,
  cursor: Cursor = "",
): { records: RunEvent[]; next: Cursor; isReset: boolean } {
  const { bytes, next, isReset } = readAppended(join(folder, FACTS_FILE), cursor, Number.MAX_SAFE_INTEGER);
  const records = parseLines<LoggedFact>(bytes).map((fact): RunEvent => {
    if (fact.fact !== "start") return fact;
    const { options: _, ...start } = fact;
    return start;
  });
  return { records: records.sort((a, b) => a.atMs - b.atMs), next, isReset };
}

/** Lists the checkpoints of a run, the oldest first. */
export function checkpointsIn(folder: string): CheckpointInfo[] {
  const found = namesIn(folder).flatMap((name): CheckpointInfo[] => {
    const step = /^checkpoint-(\d+)(?:-micro-\d+)?$/.exec(name)?.[1];
    if (step === undefined) return [];
    const path = join(folder, name);
    const bytes = namesIn(path).reduce((sum, file) => sum + sizeOf(join(path, file)), 0);
    return [{ name, step: Number(step), writtenAtMs: timeOf(path), bytes }];
  });
  return found.sort((a, b) => a.writtenAtMs - b.writtenAtMs);
}

function lastPlan(folder: string): PlanFact | undefined {
  const plans = readEvents(folder).records.filter((event) => event.fact === "plan");
  return plans.at(-1) as PlanFact | undefined;
}

function changedOptions(options: Record<string, unknown>): string[] {
  const { recipe } = options;
  const basis = { model: "-", data: "-", ...((recipe === "official" && { recipe }) as object) };
  const defaults: Record<string, unknown> = trainOptions(basis as TrainInput);
  const always = new Set(["model", "data", "output", "resume"]);
  return Object.keys(options).filter((name) => {
    return !always.has(name) && JSON.stringify(options[name]) !== JSON.stringify(defaults[name]);
  });
}

function commandsOf(
  folder: string,
  { state, options }: RunSummary,
  adapter: string | undefined,
): RunCommands {
  const hasStopped = state === "interrupted" || state === "crashed" || state === "failed";
  const model = typeof options.model === "string" ? options.model : undefined;
  const chat = adapter !== undefined && model !== undefined;
  const config = quoted(join(folder, OPTIONS_FILE));
  return {
    reproduce: commandLine(`train --config ${config} --output ${quoted(`${folder}-again`)}`),
    ...(hasStopped && { resume: commandLine(`train --resume ${quoted(folder)}`) }),
    report: commandLine(`report ${quoted(folder)}`),
    ...(chat && { chat: commandLine(`chat --model ${quoted(model)} --adapter ${quoted(adapter)}`) }),
  };
}

function headroomOf({ digest }: KnownRun, plan: PlanFact | undefined): Headroom | undefined {
  const limitBytes = plan?.limits?.deviceBytes;
  if (limitBytes === undefined) return undefined;
  const { peakBytes, peakByCategory } = digest.steps;
  const { limitedBytes = 0, deviceBytes = 0, byCategory = {} } = plan?.step ?? {};
  const besideBytes = Math.max(0, limitedBytes - deviceBytes); // a card's context, workspaces and rounding
  const usedBytes = Math.max(limitedBytes, peakBytes + besideBytes);
  const held = Object.entries(peakBytes > 0 ? peakByCategory : byCategory) as [Category, number][];
  const [largest] = held.sort((a, b) => b[1] - a[1]);
  return {
    limitBytes,
    spareBytes: limitBytes - usedBytes,
    ...(largest && { largest: { category: largest[0], bytes: largest[1] } }),
  };
}

function folderIn(folder: string, name: string): string | undefined {
  const path = join(folder, name);
  return namesIn(path).length > 0 ? path : undefined;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function sizeOf(path: string): number {
  try {
    const status = lstatSync(path);
    return status.isFile() ? status.size : 0;
  } catch {
    return 0;
  }
}

function timeOf(path: string): number {
  try {
    return lstatSync(path).mtimeMs;
  } catch {
    return 0;
  }
}
