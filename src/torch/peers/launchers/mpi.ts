/** Reads a process's place from the variables of MPI's launchers. */
import {
  type Environment,
  firstNumber,
  numberIn,
  portIn,
  type Ranked,
  textIn,
  USUAL_PORT,
} from "./variables.ts";

interface Names {
  launcher: string;
  rank: string;
  count: string;
  localRank: readonly string[];
  localCount: readonly string[];
  /** Another variable that must be there. */
  sign?: string;
}

/** Launchers whose variables are theirs alone, even if srun has started their daemons. */
const OWN: readonly Names[] = [
  {
    launcher: "Open MPI",
    rank: "OMPI_COMM_WORLD_RANK",
    count: "OMPI_COMM_WORLD_SIZE",
    localRank: ["OMPI_COMM_WORLD_LOCAL_RANK"],
    localCount: ["OMPI_COMM_WORLD_LOCAL_SIZE"],
  },
  {
    launcher: "MVAPICH",
    rank: "MV2_COMM_WORLD_RANK",
    count: "MV2_COMM_WORLD_SIZE",
    localRank: ["MV2_COMM_WORLD_LOCAL_RANK"],
    localCount: ["MV2_COMM_WORLD_LOCAL_SIZE"],
  },
  {
    launcher: "MPICH",
    rank: "PMI_RANK",
    count: "PMI_SIZE",
    localRank: ["MPI_LOCALRANKID"],
    localCount: ["MPI_LOCALNRANKS"],
    sign: "MPI_LOCALRANKID",
  },
];

/** PMI's variables, which srun sets too. */
const PMI: Names = {
  launcher: "MPI",
  rank: "PMI_RANK",
  count: "PMI_SIZE",
  localRank: ["PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"],
  localCount: ["PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE"],
};

export function byMpi(env: Environment): Ranked | undefined {
  return OWN.map((names) => byNames(env, names)).find(Boolean);
}

export function byPmi(env: Environment): Ranked | undefined {
  return byNames(env, PMI);
}

function byNames(env: Environment, names: Names): Ranked | undefined {
  if (names.sign !== undefined && textIn(env, names.sign) === undefined) return undefined;
  const rank = numberIn(env, names.rank);
  const count = numberIn(env, names.count);
  if (rank === undefined || count === undefined || count === 1) return undefined;
  return {
    ...{ launcher: names.launcher, rank, count },
    localRank: firstNumber(env, names.localRank),
    localCount: firstNumber(env, names.localCount),
    host: textIn(env, "MASTER_ADDR"),
    port: portIn(env, "MASTER_PORT", USUAL_PORT),
  };
}
