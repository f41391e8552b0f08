/** `lorafit fit`: the longest micro-batch that this device takes, found by real steps. */
import { formatBytes, formatCount } from "../../errors.ts";
import { concessionsOf } from "../../plan/policyWords.ts";
import { noticeIdleCard } from "../../train/compute.ts";
import { type FitTrial, fitTrials } from "../../train/fit.ts";
import type { OptionsOf } from "../options.ts";
import { formatDuration, type Output, table } from "../report.ts";
import { inspectModel } from "../session.ts";

export async function run(options: OptionsOf<"fit">, output: Output): Promise<void> {
  const { config } = await inspectModel(options.model);
  noticeIdleCard(options.device, (text, about) => output.caveat(text, about));
  const trials: FitTrial[] = [];
  for await (const trial of fitTrials(options)) {
    trials.push(trial);
    output.record(recordOf(trial));
    output.live(`${formatCount(trial.tokens)} tokens ${trial.measured ? "fit" : "do not fit"}`);
  }
  const rows = trials
    .toSorted((one, other) => one.tokens - other.tokens)
    .map((trial) => {
      const { policy, run } = trial.plan;
      return [...rowOf(trial), concessionsOf(policy, config, { isMapped: run.mappedBytes > 0 }).join(", ")];
    });
  output.answer(table([["tokens", "planned", "measured", "a step", "policy gives up"], ...rows]));
  const longest = trials.reduce(
    (most, { tokens, measured }) => (measured ? Math.max(most, tokens) : most),
    0,
  );
  output.record({ maxLength: longest });
  output.answer(
    longest > 0
      ? `longest that fits: ${formatCount(longest)} tokens. Train with:  --max-length ${longest}`
      : "not even the shortest length fits: pass more --memory, a lower --lora-r or --base nf4",
  );
}

function recordOf({ tokens, planned, measured }: FitTrial): Record<string, unknown> {
  return {
    tokens,
    fits: measured !== undefined,
    plannedPeakBytes: planned.device.peakBytes,
    plannedHostPeakBytes: planned.host.peakBytes,
    plannedReservedPeakBytes: planned.reservedBytes, // undefined, and left out of the JSON, on the CPU
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
