/** Makes a process a rank: its device, its threads, and what it prints. */
import { availableParallelism } from "node:os";
import { plural, UsageError, UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import { isCard } from "../../torch/dtypes.ts";
import { OWN_VARIABLES } from "../../torch/peers/launchers/launcherName.ts";
import { type Environment, numberIn, textIn } from "../../torch/peers/launchers/variables.ts";
import type { PlaceOfRank } from "../../torch/peers/place.ts";
import type { Device } from "../../torch/tensor.ts";

type Local = Pick<PlaceOfRank, "localRank" | "localCount">;

/**
 * Returns the device of a rank. The rank on its machine picks the card, whichever `asked` names. A single
 * visible card is the rank's own: Slurm shows each task its card alone.
 */
export function rankDevice(
  { localRank, localCount }: Local,
  asked: Device | undefined,
  cards: number,
): Device {
  const wantsCard = asked === undefined ? cards > 0 : isCard(asked);
  if (!wantsCard) return "cpu";
  if (cards <= 1) return "cuda:0";
  if (localCount <= cards) return `cuda:${localRank}`;
  throw new UserError(`This machine has ${localCount} ranks, but ${cards} GPUs: each rank needs its own.`, {
    fix: `Start ${cards} ranks here, or pass --device cpu.`,
  });
}

/** Throws UsageError if a launcher has started `lorafit fit` as one of several ranks. */
export function refuseFitOfRanks(place: Pick<PlaceOfRank, "count" | "launcher"> | undefined): void {
  if (!place || place.count === 1) return;
  throw new UsageError(
    `lorafit fit measures one process; ${place.launcher} has started ${plural(place.count, "rank")}.`,
    {
      fix: `Run it on one card without a launcher. For several cards, plan:  ${commandLine(`plan --gpus ${place.count} --solve max-length`)}`,
    },
  );
}

/**
 * Returns the CPU threads of a rank: its share of the cores, or of those that Slurm has given its task.
 * OMP_NUM_THREADS=1, which torchrun sets for every rank, is not used.
 */
export function rankThreads({ localCount }: Local, env: Environment, cores = availableParallelism()): number {
  const own = Math.min(numberIn(env, "SLURM_CPUS_PER_TASK") ?? cores, cores);
  const isTask = numberIn(env, "SLURM_CPUS_PER_TASK") !== undefined && !textIn(env, OWN_VARIABLES.launcher);
  return Math.max(1, isTask ? own : Math.floor(own / localCount));
}
