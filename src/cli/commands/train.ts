/** `lorafit train`: a run, shown as it goes. */
import { train } from "../../train/trainer.ts";
import type { OptionsOf } from "../options.ts";
import type { Output } from "../report.ts";
import { TrainReport } from "../trainReport.ts";

export async function run(options: OptionsOf<"train">, output: Output): Promise<void> {
  const report = new TrainReport(output);
  const interruption = new AbortController();
  const stop = (): void => {
    if (interruption.signal.aborted) process.exit(EXIT_INTERRUPTED);
    output.note("stopping after this micro-batch (again to stop at once)");
    interruption.abort();
  };
  for (const signal of SIGNALS) process.on(signal, stop);
  try {
    const result = await train(options, {
      signal: interruption.signal,
      onEvent: (event) => report.show(event),
    });
    report.end(result, options.output);
    if (result.ended === "interrupted") process.exitCode = EXIT_INTERRUPTED;
  } finally {
    for (const signal of SIGNALS) process.off(signal, stop);
  }
}

const SIGNALS = ["SIGINT", "SIGTERM"] as const;
/** As shells count it: 128 and the number of SIGINT. */
const EXIT_INTERRUPTED = 130;
