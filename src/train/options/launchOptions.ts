/** Options that start a run as several ranks on this machine. They hold for one call: no run records them. */
import { z } from "zod";
import { count, group } from "../../options.ts";

export const launchOptions = group("Several cards", {
  gpus: z
    .union([z.literal("all"), count, z.stringFormat("count", /^[1-9]\d*$/).transform(Number)])
    .optional()
    .meta({
      help: "Train on this many GPUs of this machine, each with a process (rank) of its own; all: on every visible one. Logs of the ranks: ranks/ in the output folder. Leave it out under torchrun, srun and mpirun, which start the ranks themselves.",
      value: "N",
      takes: "a number of GPUs, or all",
    }),
  cpu_ranks: count.optional().meta({
    help: "Train with this many ranks on the CPU, to try what several cards do. The cores are shared out among them.",
  }),
});
