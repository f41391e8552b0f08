/** `lorafit train`: trains, and shows the run as it goes. */
import { train } from "../../train/loop/trainer.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { EXIT_INTERRUPTED, interruptible } from "../output/interruption.ts";
import type { Output } from "../output/output.ts";
import { TrainReport } from "../run/trainReport.ts";

export async function run(options: OptionsOf<"train">, output: Output): Promise<void> {
  const report = new TrainReport(output);
  const result = await interruptible(output, "stopping after this micro-batch", ({ signal, listen }) =>
    train(options, {
      signal,
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
