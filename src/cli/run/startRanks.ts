/** Starts a command as several ranks on this machine. Loads no engine: only the ranks need it. */

import { plural } from "../../errors.ts";
import { ranksOfGpus } from "../../launch/cards.ts";
import { launchRanks, type RanksEnd } from "../../launch/launchRanks.ts";
import { OWN_VARIABLES } from "../../torch/peers/launchers/launcherName.ts";
import { nodeOf, type PlaceOfNode } from "../../torch/peers/node.ts";
import type { Output } from "../output/output.ts";
import { terminalVariables } from "../output/terminal.ts";

export interface RanksAsked {
  gpus?: number | "all" | undefined;
  cpu_ranks?: number | undefined;
}

/** Whether the options ask this process to start ranks, and it is not a rank itself. */
export function startsRanks({ gpus, cpu_ranks }: RanksAsked, environment: NodeJS.ProcessEnv): boolean {
  return (gpus !== undefined || cpu_ranks !== undefined) && !environment[OWN_VARIABLES.launcher];
}

/** Runs this process's own command as ranks, and takes over their exit code. logs: folder of their logs. */
export async function startRanks(
  { gpus, cpu_ranks }: RanksAsked,
  logs: string,
  output: Output,
): Promise<void> {
  const node = nodeOf(process.env);
  const places = { visible: process.env.CUDA_VISIBLE_DEVICES, devices: "/dev" };
  const localCount = cpu_ranks ?? ranksOfGpus(gpus ?? "all", places);
  output.note(startLine(localCount, node, logs));
  const [, script = ""] = process.argv;
  const flags = cpu_ranks === undefined ? `--gpus ${gpus}` : `--cpu-ranks ${cpu_ranks}`;
  const end = await launchRanks({
    command: [process.execPath, ...process.execArgv, script, ...process.argv.slice(2)],
    ...{ localCount, node, logs },
    environment: { ...process.env, [OWN_VARIABLES.flags]: flags },
    shownVariables: terminalVariables(process.stderr),
    terminal: process.stderr,
  });
  if (end.failed) process.stderr.write(`${failureText(end.failed)}\n`);
  if (end.code !== 0) process.exitCode = end.code;
}

function startLine(localCount: number, node: PlaceOfNode | undefined, logs: string): string {
  const where = node ? `, machine ${node.index + 1} of ${node.count} by ${node.launcher}` : "";
  return `starting ${plural(localCount, "rank")} on this machine${where}; a log of each is in ${logs}`;
}

/** Returns which rank failed, and its error unless the terminal shows it already. */
function failureText({ rank, how, log, error, isShown }: NonNullable<RanksEnd["failed"]>): string {
  const own = error && !isShown ? [`error of rank ${rank}: ${error}`] : [];
  return [...own, `rank ${rank} ${how}; the others were ended. Its log: ${log}`].join("\n");
}
