/**
 * Finds this process's place among the ranks that a launcher has started, from the environment: torchrun,
 * Slurm, MPI, Kubernetes' PyTorchJob, lorafit's own launcher, or plain variables.
 */
import { launcherOf, OWN_VARIABLES } from "./launchers/launcherName.ts";
import { byTasks } from "./launchers/tasks.ts";
import {
  contradiction,
  type Environment,
  incomplete,
  isLoopback,
  noHost,
  numberIn,
  portIn,
  type Ranked,
  stated,
  TORCH_NAMES,
  textIn,
  USUAL_PORT,
} from "./launchers/variables.ts";
import { refuseLoneNode, refuseNode } from "./node.ts";

export interface PlaceOfRank {
  /** Name of the launcher: "torchrun". */
  launcher: string;
  rank: number;
  /** Ranks of all machines. */
  count: number;
  /** Rank among those of this machine. It picks the card. */
  localRank: number;
  /** Ranks of this machine. */
  localCount: number;
  /** Machine and port of the store. */
  host: string;
  port: number;
  /** Whether the launcher serves the store, as torchrun's agent does. Otherwise rank 0 serves it. */
  launcherServes: boolean;
  /** Times that the launcher has started all ranks anew. A store that outlives them needs it in its keys. */
  attempt: number;
  /** Descriptor of a socket that listens already, for rank 0 to serve the store on. */
  listenFd?: number;
}

/**
 * Returns the place of this process; undefined if it is alone. Throws UserError if the variables contradict
 * each other, or do not say enough.
 */
export function placeOf(env: Environment): PlaceOfRank | undefined {
  const found = ranked(env);
  if (!found) {
    refuseLoneNode(env);
    if (numberIn(env, "PMIX_RANK")) throw incomplete(env, ["WORLD_SIZE"]); // PMIx has no variable for it
    return undefined;
  }
  const { launcher, rank, count } = found;
  const { localRank, localCount, host } = located(found, env);
  if (localRank >= localCount || localCount > count || rank >= count || rank < localRank)
    throw contradiction(
      `rank ${rank} of ${count}, and rank ${localRank} of ${localCount} on this machine`,
      launcher,
    );
  const listenFd = numberIn(env, OWN_VARIABLES.listenFd);
  return {
    ...{ launcher, rank, count, localRank, localCount, host, port: found.port ?? USUAL_PORT },
    launcherServes: textIn(env, "TORCHELASTIC_USE_AGENT_STORE") === "True",
    attempt: numberIn(env, "TORCHELASTIC_RESTART_COUNT") ?? 0,
    ...(listenFd !== undefined && { listenFd }),
  };
}

/** Returns "rank 2 of 8, by torchrun, host node1, card 2". */
export function describePlace(
  { rank, count, launcher }: PlaceOfRank,
  hostname: string,
  device: string,
): string {
  const on = device === "cpu" ? "on the CPU" : `card ${device.replace("cuda:", "")}`;
  return `rank ${rank} of ${count}, by ${launcher}, host ${hostname}, ${on}`;
}

/** Returns the place from RANK and WORLD_SIZE, which torchrun and many others set, or from a task. */
function ranked(env: Environment): Ranked | undefined {
  const [rank, count] = [numberIn(env, "RANK"), numberIn(env, "WORLD_SIZE")];
  if (rank === undefined || count === undefined) return completed(env, rank, count);
  if (count === 0) throw contradiction("WORLD_SIZE=0", launcherOf(env));
  if (count === 1 && rank === 0) return undefined;
  if (numberIn(env, "LOCAL_RANK") === undefined) refuseNode(env);
  const same = sameRank(env, rank, count);
  return {
    ...{ launcher: same?.launcher ?? launcherOf(env), rank, count },
    localRank: numberIn(env, "LOCAL_RANK") ?? same?.localRank,
    localCount: numberIn(env, "LOCAL_WORLD_SIZE") ?? numberIn(env, "LOCAL_SIZE") ?? same?.localCount,
    host: textIn(env, "MASTER_ADDR") ?? same?.host,
    port: portIn(env, "MASTER_PORT", same?.port ?? USUAL_PORT),
  };
}

/** Returns the place of a task, with which a lone RANK or WORLD_SIZE must agree. */
function completed(
  env: Environment,
  rank: number | undefined,
  count: number | undefined,
): Ranked | undefined {
  const other = byTasks(env);
  if (rank === undefined && count === undefined) {
    if (numberIn(env, "LOCAL_RANK") === undefined || other) return other;
    throw incomplete(env, ["RANK", "WORLD_SIZE"]);
  }
  if (rank === undefined && count === 1 && !other) return undefined;
  if (!other) throw incomplete(env, rank === undefined ? ["RANK"] : ["WORLD_SIZE"]);
  if ((rank ?? other.rank) === other.rank && (count ?? other.count) === other.count) return other;
  throw contradiction(
    `${stated(env, TORCH_NAMES)}, but rank ${other.rank} of ${other.count} by ${other.launcher}`,
    other.launcher,
  );
}

/** Returns what another launcher says of the same rank, as where a script copies SLURM_PROCID to RANK. */
function sameRank(env: Environment, rank: number, count: number): Ranked | undefined {
  if (textIn(env, "TORCHELASTIC_RUN_ID") !== undefined || textIn(env, OWN_VARIABLES.launcher))
    return undefined;
  const other = byTasks(env);
  return other?.rank === rank && other.count === count ? other : undefined;
}

/** Adds the rank on this machine and the host where the launcher leaves them out, or says what is missing. */
function located(
  { launcher, count, rank, localRank, localCount, host: given }: Ranked,
  env: Environment,
): { localRank: number; localCount: number; host: string } {
  const host = given ?? (localCount === count ? "127.0.0.1" : undefined);
  if (host === undefined) throw noHost(launcher);
  if (localRank !== undefined && localCount !== undefined) return { localRank, localCount, host };
  if (isLoopback(host)) return { localRank: localRank ?? rank, localCount: localCount ?? count, host };
  if (localRank === undefined && localCount === undefined) return { localRank: 0, localCount: 1, host }; // a pod
  throw incomplete(env, localRank === undefined ? ["LOCAL_RANK"] : ["LOCAL_WORLD_SIZE"]);
}
