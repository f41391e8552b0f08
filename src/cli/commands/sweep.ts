/** `lorafit sweep`: runs many trials, and shows how far they are. */
import { UserError } from "../../errors.ts";
import { placed } from "../../sweep/show.ts";
import { runSweep } from "../../sweep/sweep.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { EXIT_INTERRUPTED, interruptible } from "../output/interruption.ts";
import type { Output } from "../output/output.ts";
import { endLines, SweepReport } from "../sweep/sweepReport.ts";
import { tableText } from "../sweep/tableText.ts";

export async function run(options: OptionsOf<"sweep">, output: Output): Promise<void> {
  const report = new SweepReport(output, options.output);
  const [, program = ""] = process.argv;
  const { table, isStopped } = await interruptible(
    output,
    "stopping after the micro-batches that are running",
    async ({ signal, listen }) => {
      listen();
      const hooks = { signal, program, environment: process.env, take: report.take };
      return { table: await runSweep(options, hooks), isStopped: signal.aborted };
    },
  );
  const trials = table.trials.map((trial) => placed(options.output, trial));
  if (table.trials.some(({ step }) => step > 0)) output.answer(tableText({ ...table, trials }));
  if (isStopped && !table.isDone) {
    output.note("stopped. The same command continues the sweep.");
    process.exitCode = EXIT_INTERRUPTED;
    return;
  }
  for (const line of endLines(table, options.output)) output.note(line);
  if (table.best === null) throw nothingTrained(table.trials);
}

function nothingTrained(
  trials: readonly { error?: string | undefined; waysOut?: string[] | undefined }[],
): UserError {
  const [first] = trials;
  return new UserError("No trial of the sweep has a result.", {
    fix: [first?.error, ...(first?.waysOut ?? [])].filter(Boolean).join("\n"),
  });
}
