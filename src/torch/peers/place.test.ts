import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { nodeOf } from "./node.ts";
import { describePlace, type PlaceOfRank, placeOf } from "./place.ts";

type Variables = Record<string, string>;

const AT = { MASTER_ADDR: "node1", MASTER_PORT: "29511" };
const TORCHRUN = {
  ...{ RANK: "5", WORLD_SIZE: "8", LOCAL_RANK: "1", LOCAL_WORLD_SIZE: "4", GROUP_RANK: "1" },
  ...{ TORCHELASTIC_RUN_ID: "none", TORCHELASTIC_RESTART_COUNT: "2", TORCHELASTIC_MAX_RESTARTS: "3" },
  ...{ TORCHELASTIC_USE_AGENT_STORE: "True", OMP_NUM_THREADS: "1", ...AT },
};
/** A step of `srun` on three nodes, with 2, 2 and 1 tasks. */
const SRUN = {
  ...{ SLURM_JOB_ID: "1234", SLURM_STEP_ID: "3", SLURM_STEPID: "3", SLURM_PROCID: "2", SLURM_LOCALID: "0" },
  ...{
    SLURM_NTASKS: "5",
    SLURM_STEP_NUM_TASKS: "5",
    SLURM_STEP_TASKS_PER_NODE: "2(x2),1",
    SLURM_NODEID: "1",
  },
  ...{ SLURM_NODELIST: "gpu[08-10]", SLURM_STEP_NODELIST: "gpu[08-10]", SLURM_JOB_NODELIST: "gpu[08-11]" },
};
/** The batch script of a job of four nodes, as Slurm sets its variables: no step, but a rank. */
const SBATCH = {
  ...{ SLURM_JOB_ID: "200505", SLURM_PROCID: "0", SLURM_LOCALID: "0", SLURM_NODEID: "0", SLURM_NTASKS: "4" },
  ...{ SLURM_NPROCS: "4", SLURM_TASKS_PER_NODE: "1(x4)", SLURM_NODELIST: "gnode[10,20,25,37]" },
};
const OPEN_MPI = {
  ...{ OMPI_COMM_WORLD_RANK: "3", OMPI_COMM_WORLD_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "1" },
  ...{ OMPI_COMM_WORLD_LOCAL_SIZE: "2", PMIX_RANK: "3" },
};
const DLC = {
  RANK: "1",
  WORLD_SIZE: "2",
  NPROC_PER_NODE: "8",
  MASTER_ADDR: "dlc18is-master-0",
  MASTER_PORT: "23456",
};
/** Kubeflow's training operator since 1.7 multiplies WORLD_SIZE by nprocPerNode, but not RANK. */
const PYTORCH_JOB = {
  ...{ RANK: "1", WORLD_SIZE: "8", MASTER_ADDR: "job-master-0", MASTER_PORT: "23456", PET_NNODES: "2" },
  ...{
    PET_NODE_RANK: "1",
    PET_NPROC_PER_NODE: "4",
    PET_MASTER_ADDR: "job-master-0",
    PET_MASTER_PORT: "23456",
  },
  KUBERNETES_SERVICE_HOST: "10.0.0.1",
};
const SKYPILOT = {
  SKYPILOT_NUM_NODES: "2",
  SKYPILOT_NODE_RANK: "1",
  SKYPILOT_NODE_IPS: "10.0.0.4\n10.0.0.7",
};

function without(variables: Variables, ...names: string[]): Variables {
  return Object.fromEntries(Object.entries(variables).filter(([name]) => !names.includes(name)));
}

function errorOf(body: () => unknown): UserError {
  try {
    body();
  } catch (thrown) {
    if (thrown instanceof UserError) return thrown;
    throw thrown;
  }
  throw new Error("no error was thrown");
}

// biome-ignore format: a row a launcher
const PLACES: [string, Variables, Partial<PlaceOfRank> | undefined][] = [
  ["torchrun", TORCHRUN, { launcher: "torchrun", rank: 5, count: 8, localRank: 1, localCount: 4, host: "node1", port: 29511, launcherServes: true, attempt: 2 }],
  ["torchrun, started by srun", { ...SRUN, ...TORCHRUN }, { launcher: "torchrun", rank: 5, count: 8, localRank: 1 }],
  ["torchrun of one process", { ...TORCHRUN, RANK: "0", WORLD_SIZE: "1", LOCAL_RANK: "0", LOCAL_WORLD_SIZE: "1" }, undefined],
  ["DeepSpeed's LOCAL_SIZE", { ...without(TORCHRUN, "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"), LOCAL_SIZE: "4" }, { launcher: "environment variables", localCount: 4 }],
  ["variables by hand on one machine", { RANK: "1", WORLD_SIZE: "2", MASTER_ADDR: "127.0.0.1", MASTER_PORT: "29511" }, { localRank: 1, localCount: 2, launcherServes: false, attempt: 0 }],
  ["lorafit's own launcher", { ...without(TORCHRUN, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"), LORAFIT_LAUNCHER: "lorafit", LORAFIT_STORE_FD: "4" }, { launcher: "lorafit", listenFd: 4, launcherServes: false }],
  ["srun", SRUN, { launcher: "Slurm", rank: 2, count: 5, localRank: 0, localCount: 2, host: "gpu08", port: 28641 }],
  ["srun, last node", { ...SRUN, SLURM_PROCID: "4", SLURM_NODEID: "2" }, { localCount: 1 }],
  ["srun of a part of its job", { ...SRUN, SLURM_NTASKS: "64", SLURM_STEP_NUM_TASKS: "5" }, { count: 5 }],
  ["srun on one node", { ...SRUN, SLURM_STEP_NODELIST: "gpu08", SLURM_STEP_TASKS_PER_NODE: "5" }, { localCount: 5, host: "127.0.0.1" }],
  ["srun with a host by hand", { ...SRUN, ...AT }, { host: "node1", port: 29511 }],
  ["srun of an old Slurm, by tasks a node", { ...without(SRUN, "SLURM_STEP_TASKS_PER_NODE"), SLURM_NTASKS_PER_NODE: "2" }, { localCount: 2 }],
  ["srun whose script has copied the rank to RANK", { ...SRUN, ...AT, RANK: "2", WORLD_SIZE: "5" }, { launcher: "Slurm", rank: 2, localRank: 0, localCount: 2, host: "node1" }],
  ["srun whose script exports WORLD_SIZE alone", { ...SRUN, ...AT, WORLD_SIZE: "5" }, { launcher: "Slurm", count: 5 }],
  ["srun --pty bash", { ...SRUN, SLURM_STEP_ID: "0", SLURM_STEPID: "0", SLURM_PROCID: "0", SLURM_PTY_PORT: "4000" }, undefined],
  ["srun in the shell of srun --pty bash", { ...SRUN, SLURM_PTY_PORT: "4000" }, { launcher: "Slurm", rank: 2 }],
  ["srun of one task", { ...SRUN, SLURM_STEP_NUM_TASKS: "1", SLURM_PROCID: "0" }, undefined],
  ["a batch script without srun", SBATCH, undefined],
  ["a batch script with its own step number", { ...SBATCH, SLURM_STEP_ID: "4294967291" }, undefined],
  ["salloc's shell", without(SBATCH, "SLURM_PROCID", "SLURM_LOCALID"), undefined],
  ["mpirun on several machines", { ...OPEN_MPI, ...AT }, { launcher: "Open MPI", rank: 3, count: 4, localRank: 1, localCount: 2, host: "node1" }],
  ["mpirun on one machine", { ...OPEN_MPI, OMPI_COMM_WORLD_LOCAL_SIZE: "4", OMPI_COMM_WORLD_LOCAL_RANK: "3" }, { host: "127.0.0.1", port: 29500 }],
  ["mpirun whose daemons srun has started", { ...SRUN, ...OPEN_MPI, ...AT }, { launcher: "Open MPI", rank: 3, count: 4 }],
  ["MVAPICH", { MV2_COMM_WORLD_RANK: "1", MV2_COMM_WORLD_SIZE: "2", MV2_COMM_WORLD_LOCAL_RANK: "1", MV2_COMM_WORLD_LOCAL_SIZE: "2" }, { launcher: "MVAPICH", rank: 1 }],
  ["MPICH", { PMI_RANK: "1", PMI_SIZE: "2", MPI_LOCALRANKID: "1", MPI_LOCALNRANKS: "2" }, { launcher: "MPICH", rank: 1, localCount: 2 }],
  ["MPICH, whose daemons srun has started", { ...SRUN, ...AT, PMI_RANK: "1", PMI_SIZE: "2", MPI_LOCALRANKID: "0", MPI_LOCALNRANKS: "1" }, { launcher: "MPICH", rank: 1, count: 2 }],
  ["srun --mpi=pmi2", { ...SRUN, PMI_RANK: "2", PMI_SIZE: "5" }, { launcher: "Slurm", rank: 2 }],
  ["Cray's PALS", { PMI_RANK: "3", PMI_SIZE: "4", PMI_LOCAL_RANK: "1", PMI_LOCAL_SIZE: "2", ...AT }, { launcher: "MPI", rank: 3, localRank: 1 }],
  ["PyTorchJob of one process a pod", { ...PYTORCH_JOB, WORLD_SIZE: "2", PET_NPROC_PER_NODE: "1" }, { launcher: "PyTorchJob", rank: 1, count: 2, localRank: 0, localCount: 1 }],
  ["PyTorchJob before 1.7", without({ ...PYTORCH_JOB, WORLD_SIZE: "2" }, "PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE", "PET_MASTER_ADDR", "PET_MASTER_PORT"), { launcher: "PyTorchJob", localCount: 1 }],
  ["PAI-DLC of one card a machine", { ...DLC, NPROC_PER_NODE: "1" }, { launcher: "PAI-DLC", rank: 1, count: 2 }],
  ["one pod", { RANK: "0", WORLD_SIZE: "1" }, undefined],
  ["SkyPilot on one machine", { ...SKYPILOT, SKYPILOT_NUM_NODES: "1", SKYPILOT_NODE_RANK: "0" }, undefined],
  ["empty variables", { RANK: "", WORLD_SIZE: " ", LOCAL_RANK: "" }, undefined],
  ["no launcher", {}, undefined],
];

// biome-ignore format: a row a fault
const FAULTS: [string, Variables, RegExp][] = [
  ["WORLD_SIZE without RANK", { WORLD_SIZE: "4" }, /^RANK is missing.*WORLD_SIZE=4/],
  ["RANK without WORLD_SIZE", { RANK: "1" }, /^WORLD_SIZE is missing/],
  ["LOCAL_RANK alone", { LOCAL_RANK: "0" }, /^RANK and WORLD_SIZE are missing/],
  ["no LOCAL_WORLD_SIZE", without(TORCHRUN, "LOCAL_WORLD_SIZE"), /^LOCAL_WORLD_SIZE is missing/],
  ["no MASTER_ADDR", without(TORCHRUN, "MASTER_ADDR"), /^MASTER_ADDR is missing/],
  ["MPI on several machines without MASTER_ADDR", OPEN_MPI, /^MASTER_ADDR is missing: Open MPI/],
  ["PMIx alone", { PMIX_RANK: "1" }, /^WORLD_SIZE is missing.*PMIX_RANK=1/],
  ["a rank beyond the last", { ...TORCHRUN, RANK: "8" }, /contradicts itself: rank 8 of 8/],
  ["a local rank beyond the last", { ...TORCHRUN, LOCAL_RANK: "4" }, /contradicts itself.*rank 4 of 4 on this machine/],
  ["more ranks here than in all", { ...TORCHRUN, LOCAL_WORLD_SIZE: "9" }, /contradicts itself/],
  ["no ranks", { RANK: "0", WORLD_SIZE: "0" }, /contradicts itself: WORLD_SIZE=0/],
  ["words", { ...TORCHRUN, RANK: "two" }, /^The variable RANK is "two", which is not a whole number/],
  ["a negative rank", { ...TORCHRUN, RANK: "-1" }, /^The variable RANK is "-1"/],
  ["a port that is none", { ...TORCHRUN, MASTER_PORT: "70000" }, /^The variable MASTER_PORT is 70000/],
  ["WORLD_SIZE left over in srun", { ...SRUN, WORLD_SIZE: "64" }, /contradicts itself: WORLD_SIZE=64, but rank 2 of 5 by Slurm/],
  ["srun in a container without variables", without(SRUN, "SLURM_LOCALID"), /SLURM_LOCALID is missing/],
  ["srun whose nodes can't be read", { ...SRUN, SLURM_STEP_NODELIST: "gpu[8-" }, /list of nodes can't be read/],
  ["PAI-DLC, started once a machine", DLC, /^RANK is this machine's number here.*NPROC_PER_NODE=8.*8 processes/],
  ["PyTorchJob of four, started once a pod", PYTORCH_JOB, /^RANK is this machine's number here.*PET_NPROC_PER_NODE=4/],
  ["PyTorchJob of four, by its quotient", { ...PYTORCH_JOB, PET_NPROC_PER_NODE: "auto" }, /^RANK is this machine's number here.*4 processes/],
  ["SkyPilot, started once a machine", SKYPILOT, /number 1 of 2 by SkyPilot.*each machine would train by itself/],
  ["TrainJob, started once a pod", without(PYTORCH_JOB, "RANK", "WORLD_SIZE"), /number 1 of 2 by PyTorchJob/],
];

describe("placeOf", () => {
  it.each(PLACES)("finds the place under %s", (_, variables, place) => {
    const found = placeOf(variables);
    if (place === undefined) expect(found).toBeUndefined();
    else expect(found).toMatchObject(place);
  });

  it.each(FAULTS)("refuses %s, and says what to do", (_, variables, words) => {
    const error = errorOf(() => placeOf(variables));
    expect(error.message).toMatch(words);
    expect(error.fix).toBeTruthy();
  });

  it("gives every rank its own place, and the same store, whatever the shape of the job", () => {
    const shape = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(shape, fc.integer({ min: 1, max: 99_999 }), (tasks, job) => {
        const count = tasks.reduce((sum, here) => sum + here, 0);
        fc.pre(count > 1);
        let rank = 0;
        const places = tasks.flatMap((here, node) =>
          Array.from({ length: here }, (_, localRank) =>
            placeOf({
              ...{ SLURM_JOB_ID: `${job}`, SLURM_STEP_ID: "0", SLURM_STEP_NUM_TASKS: `${count}` },
              ...{ SLURM_PROCID: `${rank++}`, SLURM_LOCALID: `${localRank}`, SLURM_NODEID: `${node}` },
              SLURM_STEP_TASKS_PER_NODE: tasks.join(","),
              SLURM_STEP_NODELIST: `n[1-${tasks.length}]`,
            }),
          ),
        );
        expect(places.map((place) => place?.rank)).toEqual(places.map((_, index) => index));
        expect(new Set(places.map((place) => `${place?.host}:${place?.port}`)).size).toBe(1);
        expect(places.map((place) => place?.localCount)).toEqual(
          tasks.flatMap((here) => Array(here).fill(here)),
        );
      }),
    );
  });

  it("throws nothing but a UserError, and returns only places that make sense, for any variables", () => {
    const names = [...new Set([TORCHRUN, SRUN, OPEN_MPI, DLC, PYTORCH_JOB, SKYPILOT].flatMap(Object.keys))];
    const value = fc.oneof(
      fc.integer({ min: 0, max: 4 }).map(String),
      fc.constantFrom("", "node[1-2]", "2(x2)", "127.0.0.1", "node1", "-3", "x"),
    );
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...names), value), (variables) => {
        for (const read of [placeOf, nodeOf]) {
          try {
            const place = read(variables);
            if (!place) continue;
            const [index, count] = "rank" in place ? [place.rank, place.count] : [place.index, place.count];
            expect(index).toBeLessThan(count);
            expect(place.host).not.toBe("");
          } catch (thrown) {
            expect(thrown).toBeInstanceOf(UserError);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("describes the place in one line", () => {
    const place = placeOf(TORCHRUN)!;
    expect(describePlace(place, "gpu7", "cuda:1")).toBe("rank 5 of 8, by torchrun, host gpu7, card 1");
    expect(describePlace(place, "gpu7", "cpu")).toBe("rank 5 of 8, by torchrun, host gpu7, on the CPU");
  });
});

describe("nodeOf", () => {
  // biome-ignore format: a row a launcher
  it.each<[string, Variables, ReturnType<typeof nodeOf>]>([
    ["PyTorchJob", PYTORCH_JOB, { launcher: "PyTorchJob", index: 1, count: 2, host: "job-master-0", port: 23456 }],
    ["PyTorchJob before 1.7", { RANK: "1", WORLD_SIZE: "2", ...AT, KUBERNETES_SERVICE_HOST: "10.0.0.1" }, { launcher: "PyTorchJob", index: 1, count: 2, host: "node1", port: 29511 }],
    ["TrainJob", without(PYTORCH_JOB, "RANK", "WORLD_SIZE"), { launcher: "PyTorchJob", index: 1, count: 2, host: "job-master-0", port: 23456 }],
    ["PAI-DLC", DLC, { launcher: "PAI-DLC", index: 1, count: 2, host: "dlc18is-master-0", port: 23456 }],
    ["SkyPilot", SKYPILOT, { launcher: "SkyPilot", index: 1, count: 2, host: "10.0.0.4", port: 29500 }],
    ["ssh, by hand", { RANK: "0", WORLD_SIZE: "2", ...AT }, { launcher: "environment variables", index: 0, count: 2, host: "node1", port: 29511 }],
    ["srun of one task a node", { ...SRUN, SLURM_STEP_NUM_TASKS: "3", SLURM_STEP_TASKS_PER_NODE: "1(x3)", SLURM_PROCID: "1" }, { launcher: "Slurm", index: 1, count: 3, host: "gpu08", port: 28641 } as never],
    ["a batch script", SBATCH, undefined],
    ["one pod", { RANK: "0", WORLD_SIZE: "1" }, undefined],
    ["no launcher", {}, undefined],
  ])("finds this machine's place under %s", (_, variables, node) => {
    const found = nodeOf(variables);
    if (node === undefined) expect(found).toBeUndefined();
    else expect(found).toMatchObject(node);
  });

  // biome-ignore format: a row a fault
  it.each<[string, Variables, RegExp]>([
    ["under torchrun", TORCHRUN, /torchrun has already started/],
    ["under srun of several tasks a node", SRUN, /Slurm has already started/],
    ["under mpirun", OPEN_MPI, /Open MPI has already started/],
    ["without a host", { RANK: "0", WORLD_SIZE: "2" }, /^MASTER_ADDR is missing/],
    ["without the machine's number", { WORLD_SIZE: "2", ...AT }, /^RANK is missing/],
    ["with a machine beyond the last", { RANK: "2", WORLD_SIZE: "2", ...AT }, /machine 2 of 2/],
    ["with an elastic number of machines", { ...PYTORCH_JOB, PET_NNODES: "1:3" }, /PET_NNODES is "1:3"/],
  ])("refuses to start ranks %s", (_, variables, words) => {
    expect(errorOf(() => nodeOf(variables)).message).toMatch(words);
  });
});
