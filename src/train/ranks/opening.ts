/**
 * Opens a run by ranks: rank 0 decides where it begins and under which policies, and all check that it is one
 * run.
 */
import { hostname } from "node:os";
import { messageOf, UsageError, UserError } from "../../errors.ts";
import type { Planner } from "../../plan/planner.ts";
import { wiringOf } from "../../plan/time/links/links.ts";
import { Policy } from "../../step/policy.ts";
import { type Device, isCard } from "../../torch/dtypes.ts";
import { LIBTORCH_VERSION } from "../../torch/install/libtorch.ts";
import { agree } from "../../torch/peers/agreement.ts";
import type { Json, Peers } from "../../torch/peers/peers.ts";
import { type Checkpoint, readCheckpoint } from "../folder/checkpoints.ts";
import { cardOf } from "../machine/modelPlanner.ts";
import type { TrainOptions } from "../options/options.ts";
import type { ClassPolicy } from "../options/policyFiles.ts";
import type { RunPlanning } from "../planning/planRun.ts";

/** Returns the checkpoint that all ranks continue from. find: of rank 0, which may mend the output folder. */
export async function checkpointOf(
  peers: Peers,
  find: () => Promise<Checkpoint | undefined>,
): Promise<Checkpoint | undefined> {
  const found = peers.rank === 0 ? await find() : undefined;
  const [folder] = (await peers.tell("checkpoint", found?.folder ?? null)) as (string | null)[];
  if (peers.rank === 0 || folder === null) return found;
  return await readCheckpoint(folder!).catch((cause) => {
    throw new UserError(
      `Rank ${peers.rank} can't read ${folder}, from which the run continues: ${messageOf(cause)}`,
      {
        fix: `Host ${hostname()} must see the output folder under the same path as rank 0's.`,
        cause,
      },
    );
  });
}

/** Returns the planner of this rank. Ranks of a machine share its memory. */
export async function plannerOfRank(peers: Peers, planner: Planner, device: Device): Promise<Planner> {
  if (peers.count === 1) return planner;
  const hosts = await peers.tell("host", hostname());
  const perMachine = hosts.filter((host) => host === hostname()).length;
  const card = isCard(device) ? cardOf(device) : undefined;
  const machines = Math.ceil(peers.count / perMachine);
  return planner.amongRanks(peers.rank, { ...wiringOf({ perMachine, machines }, card), count: peers.count });
}

/** Returns the options of this rank: what writes a file beside the run is rank 0's. */
export function optionsOfRank(peers: Peers, { memory_snapshot, ...options }: TrainOptions): TrainOptions {
  return { ...options, ...(peers.rank === 0 && memory_snapshot !== undefined && { memory_snapshot }) };
}

/** Throws UsageError if ranks would have nothing to do. */
export function checkAccumulation(
  { count }: Pick<Peers, "count">,
  { gradient_accumulation }: TrainOptions,
): void {
  if (gradient_accumulation >= count) return;
  throw new UsageError(
    `--gradient-accumulation ${gradient_accumulation} gives ${count} ranks fewer than one micro-batch each a step.`,
    { fix: `Pass --gradient-accumulation ${count} or more, or start fewer ranks.` },
  );
}

/** Choices of rank 0, for all ranks. */
interface First {
  policies: readonly ClassPolicy[];
  attention: Policy["attention"];
}

/**
 * Plans on rank 0, then on the others with its policies: they are chosen by measured times, which differ a
 * little from rank to rank, and a policy changes how numbers are rounded.
 */
export async function planTogether(
  peers: Peers,
  plan: (first: First | undefined) => Promise<RunPlanning>,
): Promise<RunPlanning> {
  const own = peers.rank === 0 ? await plan(undefined) : undefined;
  const [told] = await peers.tell("policies", own ? asJson(own) : null);
  return own ?? (await plan(firstOf(told!)));
}

function asJson({ plan: { policies, policy } }: RunPlanning): Json {
  const known = policies.map(({ upToTokens, policy }) => ({
    upToTokens: Number.isFinite(upToTokens) ? upToTokens : null,
    policy,
  }));
  return { policies: known, attention: policy.attention } as unknown as Json;
}

function firstOf(told: Json): First {
  const { policies, attention } = told as unknown as {
    policies: { upToTokens: number | null; policy: unknown }[];
    attention: Policy["attention"];
  };
  const known = policies.map(({ upToTokens, policy }) => ({
    upToTokens: upToTokens ?? Number.POSITIVE_INFINITY,
    policy: Policy.parse(policy),
  }));
  return { policies: known, attention };
}

/** Options that may differ from rank to rank: paths, whose content is compared, and what is a rank's own. */
const OWN_OPTIONS = new Set<string>([
  ...["model", "adapter", "data", "eval_data", "output", "resume"],
  ...["device", "threads", "memory", "host_memory", "memory_snapshot", "report_to", "planned_step"],
]);

/**
 * Throws UserError if a rank's options differ from rank 0's, or the facts of its model and data. Otherwise
 * ranks would start different collectives, or compute nonsense together.
 */
export async function requireSameRun(
  peers: Peers,
  options: TrainOptions,
  facts: Readonly<Record<string, Json>>,
): Promise<void> {
  const compared = Object.entries(options).filter(
    ([name, value]) => value !== undefined && !OWN_OPTIONS.has(name),
  );
  const named = Object.fromEntries(compared.map(([name, value]) => [`option ${name}`, value as Json]));
  await agree(peers, { libtorch: LIBTORCH_VERSION, ...named, ...facts });
}
