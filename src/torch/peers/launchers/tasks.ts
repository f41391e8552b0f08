/** Reads a process's place from the launchers that count tasks: MPI's and Slurm's. */
import { byMpi, byPmi } from "./mpi.ts";
import { bySlurm } from "./slurm.ts";
import type { Environment, Ranked } from "./variables.ts";

/** Returns the place of a task; undefined if there is one task. MPI may have started its daemons by Slurm. */
export function byTasks(env: Environment): Ranked | undefined {
  return byMpi(env) ?? bySlurm(env) ?? byPmi(env);
}
