/** Trains in this process, alone or as one of several ranks, and shows the run as it goes. */
import { hostname } from "node:os";
import { plural } from "../../errors.ts";
import { cudaDevices, setThreads } from "../../torch/device.ts";
import { OWN_VARIABLES } from "../../torch/peers/launchers/launcherName.ts";
import { unstartedTasks } from "../../torch/peers/launchers/slurm.ts";
import { openPeers } from "../../torch/peers/open.ts";
import { ALONE, type Peers } from "../../torch/peers/peers.ts";
import { describePlace, type PlaceOfRank, placeOf } from "../../torch/peers/place.ts";
import { train } from "../../train/loop/trainer.ts";
import { rankTimeoutMs } from "../../train/options/rankOptions.ts";
import { isTogether } from "../../train/ranks/together.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { EXIT_INTERRUPTED, interruptible } from "../output/interruption.ts";
import { Output } from "../output/output.ts";
import { rankDevice, rankThreads } from "./rank.ts";
import { TrainReport } from "./trainReport.ts";

type Options = OptionsOf<"train">;

export async function trainHere(given: Options, output: Output): Promise<void> {
  const place = placeOf(process.env);
  if (!place) noticeAlone(output);
  const options = place ? asRank(given, place, output) : given;
  const shown = place ? outputOf(place, output) : output;
  const peers =
    place && (await openPeers(place, { device: options.device, rankTimeoutMs: rankTimeoutMs(options) }));
  try {
    await showing(options, shown, peers);
  } catch (thrown) {
    await peers?.fail(thrown); // the others then name this rank and its error
    throw thrown;
  } finally {
    await peers?.[Symbol.asyncDispose]();
  }
}

/** Trains, and shows the run. */
async function showing(options: Options, output: Output, peers: Peers | undefined): Promise<void> {
  const report = new TrainReport(output);
  const stopsAfter = isTogether({ peers: peers ?? ALONE, inputs: { options } }) ? "step" : "micro-batch";
  const result = await interruptible(output, `stopping after this ${stopsAfter}`, ({ signal, listen }) =>
    train(options, {
      signal,
      ...(peers && { peers }),
      sinks: [
        {
          take: (fact) => {
            if (fact.fact === "start") listen(); // before that there is nothing to save
            report.take(fact);
          },
        },
      ],
    }),
  );
  report.end(result, options.output);
  if (result.ended === "interrupted" && !result.reason) process.exitCode = EXIT_INTERRUPTED;
}

/** Sets this process up as a rank, and says so in one line. Returns the options with the rank's device. */
function asRank(options: Options, place: PlaceOfRank, output: Output): Options {
  const asked = options.cpu_ranks === undefined ? options.device : "cpu";
  const device = rankDevice(place, asked, cudaDevices());
  if (options.threads === undefined) setThreads(rankThreads(place, process.env));
  output.note(describePlace(place, hostname(), device));
  return { ...options, device };
}

/** Returns where a rank shows the run: rank 0 on the terminal and to scripts, the others in their logs. */
function outputOf({ rank }: PlaceOfRank, output: Output): Output {
  if (rank === 0) return output;
  const hasLog = process.env[OWN_VARIABLES.launcher] !== undefined;
  const nowhere = { write: () => true };
  const log = hasLog ? process.stderr : nowhere;
  return new Output({ json: false, stdout: log, stderr: log, environment: {} });
}

/** Warns if Slurm has reserved several tasks, and this is the only process. */
function noticeAlone(output: Output): void {
  const tasks = unstartedTasks(process.env);
  if (tasks === undefined) return;
  output.note(
    `Slurm has reserved ${plural(tasks, "task")}, but this process trains alone: only srun starts them, as in  srun lorafit train ...`,
  );
}
