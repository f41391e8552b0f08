/** Finds this machine's place among several on which lorafit starts the ranks itself. */
import { UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import { launcherOf } from "./launchers/launcherName.ts";
import { byTasks } from "./launchers/tasks.ts";
import {
  contradiction,
  type Environment,
  incomplete,
  noHost,
  numberIn,
  portIn,
  stated,
  textIn,
  USUAL_PORT,
} from "./launchers/variables.ts";

/** A machine among several, on which lorafit starts the ranks itself. */
export interface PlaceOfNode {
  launcher: string;
  index: number;
  /** Machines. */
  count: number;
  host: string;
  port: number;
}

/**
 * Returns this machine's place among several whose launcher starts one process on each, which then starts the
 * ranks; undefined if it is the only machine. Throws UserError if this process is a rank already.
 */
export function nodeOf(env: Environment): PlaceOfNode | undefined {
  refuseRank(env);
  const node = bySkyPilot(env) ?? byPet(env) ?? byPods(env) ?? byTask(env);
  if (!node || node.count === 1) return undefined;
  const { launcher, index, count, host } = node;
  if (index >= count) throw contradiction(`machine ${index} of ${count}, counted from 0`, launcher);
  if (host === undefined) throw noHost(launcher);
  return { ...node, host };
}

/** Processes that a launcher expects on each machine; undefined if it does not say. */
function perNode(env: Environment): number | undefined {
  const each = textIn(env, "PET_NPROC_PER_NODE") ?? textIn(env, "NPROC_PER_NODE");
  if (each !== undefined && /^\d+$/.test(each)) return Number(each);
  const [count, nodes] = [numberIn(env, "WORLD_SIZE"), textIn(env, "PET_NNODES")];
  return count && nodes && /^[1-9]\d*$/.test(nodes) ? count / Number(nodes) : undefined;
}

/** Throws UserError if RANK counts machines of several cards, and this is the only process of its machine. */
export function refuseNode(env: Environment): void {
  const each = perNode(env);
  if (each === undefined || each <= 1) return;
  const said = stated(env, ["RANK", "WORLD_SIZE", "PET_NNODES", "PET_NPROC_PER_NODE", "NPROC_PER_NODE"]);
  throw new UserError(
    `RANK is this machine's number here, not a process's (${said}): each machine is to run ${each} processes, but lorafit was started once.`,
    { fix: startAll(`--gpus ${each}`) },
  );
}

/** Throws UserError if this machine is one of several, and nothing joins them: each would train by itself. */
export function refuseLoneNode(env: Environment): void {
  const node = bySkyPilot(env) ?? byPet(env);
  if (!node || node.count === 1) return;
  throw new UserError(
    `This machine is number ${node.index} of ${node.count} by ${node.launcher}, but lorafit was started once on it, without --gpus: each machine would train by itself.`,
    { fix: startAll("--gpus all") },
  );
}

function startAll(gpus: string): string {
  return `Let lorafit start a rank for each card:  ${commandLine(`train ${gpus} ...`)}\nOr use torchrun:  torchrun --no-python --nproc-per-node N ... lorafit train ...`;
}

/** Throws UserError if a launcher has started this process as one rank of several on this machine. */
function refuseRank(env: Environment): void {
  const isRank = textIn(env, "TORCHELASTIC_RUN_ID") ?? textIn(env, "LOCAL_RANK");
  const other = isRank === undefined ? byTasks(env) : undefined;
  const alone = isRank === undefined && (!other || other.localCount === 1);
  if (alone) return;
  const launcher = other?.launcher ?? launcherOf(env);
  throw new UserError(`--gpus and --cpu-ranks start ranks, but ${launcher} has already started this one.`, {
    fix: `Leave --gpus and --cpu-ranks out, or start lorafit once on each machine.`,
  });
}

type Node = Omit<PlaceOfNode, "host"> & { host: string | undefined };

function bySkyPilot(env: Environment): Node | undefined {
  const count = numberIn(env, "SKYPILOT_NUM_NODES");
  const index = numberIn(env, "SKYPILOT_NODE_RANK");
  if (count === undefined || index === undefined || textIn(env, "RANK") !== undefined) return undefined;
  const [first] = (textIn(env, "SKYPILOT_NODE_IPS") ?? "").split(/\s+/);
  const host = textIn(env, "MASTER_ADDR") ?? (first || undefined);
  return { launcher: "SkyPilot", index, count, host, port: portIn(env, "MASTER_PORT", USUAL_PORT) };
}

/** Reads the variables that Kubeflow sets for torchrun. */
function byPet(env: Environment): Node | undefined {
  const nodes = textIn(env, "PET_NNODES");
  if (nodes === undefined) return undefined;
  if (!/^\d+$/.test(nodes)) {
    throw new UserError(`PET_NNODES is "${nodes}": lorafit needs a fixed number of machines.`, {
      fix: "Remove elasticPolicy from the job. A run may be continued on another number of machines.",
    });
  }
  const index = numberIn(env, "PET_NODE_RANK") ?? numberIn(env, "RANK");
  if (index === undefined) throw incomplete(env, ["PET_NODE_RANK"]);
  const host = textIn(env, "PET_MASTER_ADDR") ?? textIn(env, "MASTER_ADDR");
  const port = portIn(env, "PET_MASTER_PORT", portIn(env, "MASTER_PORT", USUAL_PORT));
  return { launcher: "PyTorchJob", index, count: Number(nodes), host, port };
}

/** Reads RANK and WORLD_SIZE as machine and machines. */
function byPods(env: Environment): Node | undefined {
  const [index, count] = [numberIn(env, "RANK"), numberIn(env, "WORLD_SIZE")];
  if (index === undefined && count === undefined) return undefined;
  if (index === undefined && count === 1) return undefined;
  if (index === undefined || count === undefined) {
    if (byTasks(env)) return undefined;
    throw incomplete(env, index === undefined ? ["RANK"] : ["WORLD_SIZE"]);
  }
  const host = textIn(env, "MASTER_ADDR");
  return { launcher: launcherOf(env), index, count, host, port: portIn(env, "MASTER_PORT", USUAL_PORT) };
}

/** Reads tasks of Slurm or MPI of which each machine has one. */
function byTask(env: Environment): Node | undefined {
  const task = byTasks(env);
  return task && { ...task, index: task.rank, port: task.port ?? USUAL_PORT };
}
