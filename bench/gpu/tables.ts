/** Writes the GPU bench's results as tables in Markdown: speed, and memory beside its plan. */
import { formatBytes } from "../../src/errors.ts";
import { type Figures, rateShare } from "./figures.ts";
import { type GpuCase, necessaryFlops, titleOf, tokensOf } from "./matrix.ts";
import type { PlannedPeaks } from "./planned.ts";

export const SIDES = ["lorafit", "plain", "kernels"] as const;
export type Side = (typeof SIDES)[number];

/** Result of one configuration and side: its figures, or the reason why there are none. */
export type Outcome = Figures | { failed: string };

export interface Row {
  case: GpuCase;
  outcomes: Partial<Record<Side, Outcome>>;
  planned?: PlannedPeaks | undefined;
}

const MOST_LETTERS = 100;

/** Seconds and peaks in a line. */
export function summaryOf(outcome: Outcome | undefined): string {
  if (!outcome) return "-";
  if ("failed" in outcome) return failureOf(outcome);
  return `${outcome.seconds.toFixed(2)} s, ${formatBytes(outcome.peakBytes)}`;
}

export function speedTable(rows: readonly Row[], flopsPerSecond: number): string {
  const lines = rows.map(({ case: wanted, outcomes }) => {
    const cells = SIDES.map((side) => summaryOf(outcomes[side]));
    return [titleOf(wanted), ...cells, ...sharesOf(wanted, outcomes.lorafit, flopsPerSecond)];
  });
  return [
    `A bf16 product runs at ${(flopsPerSecond / 1e12).toFixed(1)} TFLOP/s. Seconds a step and peak memory, weights included; the share is of that rate, ` +
      "counted on the FLOPs that the decoder cannot do without. The columns from there on are lorafit's: the part of the copies' time in " +
      "which the computing did not wait for them, the part of a step in which it waits for pictures (aim: at most 1 %), and how much " +
      "longer than the middle one the 95th of a hundred steps takes.",
    "",
    "| case | lorafit | PyTorch, PEFT | with Liger, Unsloth, bitsandbytes | of the matrix rate | tokens/s | copies hidden | data stall | p95 / median |",
    "|---|---|---|---|---|---|---|---|---|",
    ...lines.map((cells) => `| ${cells.join(" | ")} |`),
    "",
  ].join("\n");
}

export function memoryTable(rows: readonly Row[]): string {
  const lines = rows.map(({ case: wanted, outcomes, planned }) => {
    const { lorafit: ours, ...peers } = outcomes;
    const off = [
      offBy(peakOf(ours, "peakBytes"), planned?.allocatedBytes),
      offBy(peakOf(ours, "reservedPeakBytes"), planned?.reservedBytes),
    ];
    const cells = [
      planned ? pairOf(planned.allocatedBytes, planned.reservedBytes) : "-",
      peaksOf(ours),
      off.join(" / "),
      ...(["plain", "kernels"] as const).flatMap((side) => [
        peaksOf(peers[side]),
        ratioOf(ours, peers[side]),
      ]),
    ];
    return `| ${[titleOf(wanted), ...cells].join(" | ")} |`;
  });
  return [
    "Peak memory of a step, weights included: what tensors hold / what the caching allocator holds for them (without CUDA's context). " +
      "Off is measured beside planned; ratios are lorafit's allocated bytes to the peer's.",
    "",
    "| case | lorafit, planned | measured | off | PyTorch, PEFT | ratio | with Liger, Unsloth, bitsandbytes | ratio |",
    "|---|---|---|---|---|---|---|---|",
    ...lines,
    "",
  ].join("\n");
}

function peaksOf(outcome: Outcome | undefined): string {
  if (!outcome) return "-";
  if ("failed" in outcome) return failureOf(outcome);
  return pairOf(outcome.peakBytes, outcome.reservedPeakBytes);
}

function pairOf(allocatedBytes: number, reservedBytes: number | undefined): string {
  return [allocatedBytes, reservedBytes]
    .map((bytes) => (bytes === undefined ? "-" : formatBytes(bytes)))
    .join(" / ");
}

function peakOf(outcome: Outcome | undefined, of: "peakBytes" | "reservedPeakBytes"): number | undefined {
  return outcome && !("failed" in outcome) ? outcome[of] : undefined;
}

function offBy(measured: number | undefined, planned: number | undefined): string {
  if (measured === undefined || planned === undefined) return "-";
  return `${(100 * (measured / planned - 1)).toFixed(2)} %`;
}

function ratioOf(ours: Outcome | undefined, peer: Outcome | undefined): string {
  const [own, other] = [peakOf(ours, "peakBytes"), peakOf(peer, "peakBytes")];
  return own === undefined || other === undefined ? "" : (own / other).toFixed(2);
}

/** Share of the matrix rate, tokens a second, copies hidden, data stall, steadiness. */
function sharesOf(wanted: GpuCase, ours: Outcome | undefined, flopsPerSecond: number): string[] {
  if (!ours || "failed" in ours) return ["", "", "", "", ""];
  const { seconds, hiddenShare, dataStallShare, steadiness } = ours;
  const { text, image } = tokensOf(wanted);
  const percent = (share: number | undefined, digits: number): string =>
    share === undefined ? "-" : `${(100 * share).toFixed(digits)} %`;
  const rate = flopsPerSecond > 0 ? rateShare(necessaryFlops(wanted), seconds, flopsPerSecond) : undefined;
  return [
    percent(rate, 0),
    ((text + image) / seconds).toFixed(0),
    percent(hiddenShare, 0),
    percent(dataStallShare, 1),
    steadiness.toFixed(2),
  ];
}

/** The beginning of the first line: messages of torch go on at length. */
function failureOf({ failed }: { failed: string }): string {
  const line = failed.split("\n")[0]!.replaceAll("|", "/");
  return line.length > MOST_LETTERS ? `${line.slice(0, MOST_LETTERS)}…` : line;
}
