/** Reads a process's place from the variables of Slurm's srun. */
import { UserError } from "../../../errors.ts";
import { type Environment, firstNumber, numberIn, portIn, type Ranked, textIn } from "./variables.ts";

/** Steps from this number on are Slurm's own: the batch script, an interactive shell. */
const FIRST_OWN_STEP = 0xfffffff0;
const FIRST_PORT = 20_000;
/** Ports below those that Linux gives to outgoing connections, from 32768. */
const PORTS = 10_000;
const MOST_HOSTS = 100_000;

/**
 * Returns the place of a task that srun has started; undefined for a batch script, an interactive shell and a
 * step of one task. A batch script has SLURM_PROCID=0 and SLURM_NTASKS too, but it is alone.
 */
export function bySlurm(env: Environment): Ranked | undefined {
  if (!isStep(env) || isInteractive(env)) return undefined;
  const rank = numberIn(env, "SLURM_PROCID");
  const count = firstNumber(env, ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"]);
  if (rank === undefined || count === undefined || count === 1) return undefined;
  const localRank = numberIn(env, "SLURM_LOCALID");
  if (localRank === undefined) throw lacking("SLURM_LOCALID");
  const hosts = hostsOf(textIn(env, "SLURM_STEP_NODELIST") ?? textIn(env, "SLURM_NODELIST") ?? "");
  const localCount = localCountOf(env, count, hosts.length);
  if (localCount === undefined) throw lacking("SLURM_STEP_TASKS_PER_NODE");
  const isHere = localCount === count;
  return {
    ...{ launcher: "Slurm", rank, count, localRank, localCount },
    host: textIn(env, "MASTER_ADDR") ?? (isHere ? "127.0.0.1" : hosts[0]),
    port: portIn(env, "MASTER_PORT", portOf(env)),
  };
}

/** Tasks of a job that nobody started: this is its batch script. Undefined if it has one task. */
export function unstartedTasks(env: Environment): number | undefined {
  if (textIn(env, "SLURM_JOB_ID") === undefined || isStep(env)) return undefined;
  const tasks = numberIn(env, "SLURM_NTASKS");
  return tasks !== undefined && tasks > 1 ? tasks : undefined;
}

function isStep(env: Environment): boolean {
  const id = textIn(env, "SLURM_STEP_ID") ?? textIn(env, "SLURM_STEPID");
  if (id === undefined) return textIn(env, "SLURM_STEP_NUM_TASKS") !== undefined;
  return /^\d+$/.test(id) && Number(id) < FIRST_OWN_STEP;
}

/**
 * Whether this is the shell of `srun --pty bash`: the first step of its job, with a terminal. Steps that are
 * started in the shell inherit the terminal's variable, but have a number of their own.
 */
function isInteractive(env: Environment): boolean {
  const id = textIn(env, "SLURM_STEP_ID") ?? textIn(env, "SLURM_STEPID");
  return id === "0" && textIn(env, "SLURM_PTY_PORT") !== undefined;
}

function localCountOf(env: Environment, count: number, nodes: number): number | undefined {
  if (nodes === 1) return count;
  const listed = textIn(env, "SLURM_STEP_TASKS_PER_NODE") ?? textIn(env, "SLURM_TASKS_PER_NODE");
  const tasks = listed === undefined ? [] : tasksOf(listed);
  const total = tasks.reduce((sum, here) => sum + here, 0);
  if (total === count) return tasks[numberIn(env, "SLURM_NODEID") ?? 0];
  const each = textIn(env, "SLURM_NTASKS_PER_NODE");
  return each !== undefined && /^\d+$/.test(each) ? Math.min(Number(each), count) : undefined;
}

/** Returns a port that two steps of one machine are unlikely to share, and all ranks of a step know. */
function portOf(env: Environment): number {
  const job = numberIn(env, "SLURM_JOB_ID") ?? 0;
  const step = firstNumber(env, ["SLURM_STEP_ID", "SLURM_STEPID"]) ?? 0;
  return FIRST_PORT + ((job * 7 + step) % PORTS);
}

/** Returns the tasks of each node from Slurm's short form: 2(x3),1 is 2, 2, 2, 1. */
export function tasksOf(text: string): number[] {
  return text.split(",").flatMap((part) => {
    const [, tasks, times = "1"] = /^(\d+)(?:\(x(\d+)\))?$/.exec(part.trim()) ?? [];
    if (tasks === undefined || Number(times) > MOST_HOSTS) throw unreadable("tasks per node", text);
    return Array.from({ length: Number(times) }, () => Number(tasks));
  });
}

/** Returns the names in Slurm's short form: node[01-03,7] is node01, node02, node03, node7. */
export function hostsOf(list: string): string[] {
  const hosts = partsOf(list).flatMap((part) => expanded(part, list));
  if (hosts.length > MOST_HOSTS) throw unreadable("list of nodes", list);
  return hosts;
}

/** Splits at commas and spaces outside of brackets. */
function partsOf(list: string): string[] {
  return list.match(/(?:\[[^\]]*\]?|[^,\s[])+/g) ?? [];
}

function expanded(name: string, list: string): string[] {
  const open = name.indexOf("[");
  if (open < 0) return [name];
  const close = name.indexOf("]", open);
  if (close < 0) throw unreadable("list of nodes", list);
  const head = name.slice(0, open);
  const tails = expanded(name.slice(close + 1), list);
  const middles = name
    .slice(open + 1, close)
    .split(",")
    .flatMap((range) => numbersOf(range.trim(), list));
  if (middles.length * tails.length > MOST_HOSTS) throw unreadable("list of nodes", list);
  return middles.flatMap((middle) => tails.map((tail) => `${head}${middle}${tail}`));
}

/** Returns the numbers of a range with their zeros in front: 08-10 is 08, 09, 10. */
function numbersOf(range: string, list: string): string[] {
  const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(range) ?? [];
  if (first === undefined || last === undefined) throw unreadable("list of nodes", list);
  const length = Number(last) - Number(first) + 1;
  if (length < 1 || length > MOST_HOSTS) throw unreadable("list of nodes", list);
  return Array.from({ length }, (_, index) => String(Number(first) + index).padStart(first.length, "0"));
}

function lacking(name: string): UserError {
  return new UserError(`Slurm started this process, but the variable ${name} is missing.`, {
    fix: "Pass srun's variables on. A container needs, for example, srun --export=ALL.",
  });
}

function unreadable(what: string, text: string): UserError {
  return new UserError(`Slurm's ${what} can't be read: "${text}".`, {
    fix: "Name the machine of rank 0 in MASTER_ADDR, and start with torchrun instead of srun.",
  });
}
