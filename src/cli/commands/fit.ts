/** `lorafit fit`: finds the longest micro-batch that fits this device, by real steps. */
import { formatBytes, formatCount, plural } from "../../errors.ts";
import type { ModelConfig } from "../../models/family.ts";
import { concessionsOf } from "../../plan/policyWords.ts";
import { placeOf } from "../../torch/peers/place.ts";
import { type FitAttempt, type FitTrial, fitTrials } from "../../train/fit.ts";
import { noticeIdleCard } from "../../train/machine/compute.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { EXIT_INTERRUPTED, type Interruption, interruptible } from "../output/interruption.ts";
import { formatDuration, type Output } from "../output/output.ts";
import { refuseFitOfRanks } from "../run/rank.ts";
import { inspectModel } from "../session.ts";

export async function run(options: OptionsOf<"fit">, output: Output): Promise<void> {
  refuseFitOfRanks(placeOf(process.env));
  const { config } = await inspectModel(options.model);
  noticeIdleCard(options.device, (text, about) => output.caveat(text, about));
  const trials = await interruptible(
    output,
    "stopping after this length",
    (interruption) => showTrials(options, config, { output, interruption }),
    { saves: false },
  );
  const longest = trials.lengths.reduce(
    (most, { tokens, measured }) => (measured ? Math.max(most, tokens) : most),
    0,
  );
  if (trials.isStopped) return stopped(longest, output);
  output.record({ maxLength: longest });
  output.answer(
    longest > 0
      ? `longest that fits: ${formatCount(longest)} tokens. Train with:  --max-length ${longest}`
      : "the shortest length does not fit: pass more --memory, a lower --lora-r or --base nf4",
  );
  if (longest === 0) process.exitCode = 1;
}

/**
 * Measures one length after the other until the search ends or Ctrl-C stops it, and shows each when it is
 * done.
 */
async function showTrials(
  options: OptionsOf<"fit">,
  config: ModelConfig,
  { output, interruption: { signal, listen } }: { output: Output; interruption: Interruption },
): Promise<{ lengths: FitTrial[]; isStopped: boolean }> {
  const lengths: FitTrial[] = [];
  const progress = new FitProgress(output);
  const begin = (attempt: FitAttempt): void => {
    progress.begin(attempt);
    if (lengths.length === 0) listen();
  };
  for await (const trial of fitTrials(options, begin)) {
    progress.end();
    output.record(recordOf(trial));
    if (lengths.push(trial) === 1) output.answer(rowText(HEADINGS));
    const { policy, run } = trial.plan;
    const concessions = concessionsOf(policy, config, { mapped: run.mappedParts }).join(", ");
    output.answer(rowText([...rowOf(trial), concessions]));
    if (signal.aborted) return { lengths, isStopped: true };
  }
  return { lengths, isStopped: false };
}

function stopped(longest: number, output: Output): void {
  output.note(
    longest > 0
      ? `stopped: so far the longest that fits has ${formatCount(longest)} tokens. Continue from there with:  --from ${longest}`
      : "stopped: no length fits so far",
  );
  process.exitCode = EXIT_INTERRUPTED;
}

const HEADINGS = ["tokens", "planned", "measured", "a step", "policy"];
/** Widths of the columns. Rows appear one by one, so the widths are fixed. */
const COLUMNS = [9, 24, 24, 9];

function rowText(cells: string[]): string {
  return cells
    .map((cell, at) => cell.padEnd(COLUMNS[at] ?? 0))
    .join("  ")
    .trimEnd();
}

/** Shows which length is tried, and how long the search will take once that is known. */
class FitProgress {
  readonly #output: Output;
  #startMs = 0;
  #trialMs: number | undefined;

  constructor(output: Output) {
    this.#output = output;
  }

  begin({ plan, timesBy, triesLeft }: FitAttempt): void {
    const tokens = `trying ${formatCount(plan.workload.maxLength)} tokens`;
    this.#startMs = performance.now();
    if (triesLeft === undefined || this.#trialMs === undefined)
      this.#output.live(
        `${tokens}: about ${formatDuration(plan.stepMs)} a step by ${timesBy}; then twice as many, until memory is full`,
      );
    else
      this.#output.live(
        `${tokens}; ${plural(triesLeft, "length")} to try, about ${formatDuration(triesLeft * this.#trialMs)} left`,
      );
  }

  end(): void {
    this.#trialMs = performance.now() - this.#startMs;
  }
}

function recordOf({ tokens, planned, measured }: FitTrial): Record<string, unknown> {
  return {
    tokens,
    fits: measured !== undefined,
    plannedPeakBytes: planned.device.peakBytes,
    plannedHostPeakBytes: planned.host.peakBytes,
    plannedReservedPeakBytes: planned.reservedBytes, // on the CPU undefined, so it is not in the JSON
    ...(measured && {
      peakBytes: measured.device.bytes,
      hostPeakBytes: measured.host.bytes,
      reservedPeakBytes: measured.reservedBytes,
      stepMs: measured.stepMs,
    }),
  };
}

function rowOf({ tokens, planned, measured }: FitTrial): string[] {
  const pools = (device: number, host: number, reserved: number | undefined): string =>
    [
      `${formatBytes(device)}${reserved === undefined ? "" : ` (${formatBytes(reserved)} reserved)`}`,
      ...(host > 0 ? [`${formatBytes(host)} host`] : []),
    ].join(" + ");
  return [
    formatCount(tokens),
    pools(planned.device.peakBytes, planned.host.peakBytes, planned.reservedBytes),
    measured ? pools(measured.device.bytes, measured.host.bytes, measured.reservedBytes) : "out of memory",
    measured ? formatDuration(measured.stepMs) : "",
  ];
}
