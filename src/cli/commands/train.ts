/** `lorafit train`: trains in this process, or starts ranks that do. */
import { join } from "node:path";
import { watchLauncher } from "../../launch/watchLauncher.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";
import { startRanks, startsRanks } from "../run/startRanks.ts";

export async function run(options: OptionsOf<"train">, output: Output): Promise<void> {
  if (startsRanks(options, process.env)) return startRanks(options, join(options.output, "ranks"), output);
  watchLauncher(process.env);
  const { trainHere } = await import("../run/trainHere.ts"); // loads the engine, which only ranks need
  await trainHere(options, output);
}
