/** The goals of the GPU bench, each answered yes or no by what was measured so far. */
import { formatBytes, formatCount, GIB } from "../../src/errors.ts";
import { type Figures, rateShare } from "./figures.ts";
import { type Base, type GpuCase, necessaryFlops, type Placement, tokensOf } from "./matrix.ts";
import type { Row, Side } from "./tables.ts";

interface Answer {
  measured: string;
  reached: boolean;
}

interface Goal {
  goal: string;
  /** Peaks alone answer it. */
  ofMemory?: boolean;
  /** Undefined where what it asks about was not measured. */
  answer: (results: Results) => Answer | undefined;
}

const GOALS: readonly Goal[] = [
  {
    goal: "8k to 16k tokens, bf16: at least 60 % of the measured matrix rate, counted on necessary FLOPs",
    answer: (results) => {
      const shares = results.rateShares().filter(({ tokens }) => tokens >= 8000 && tokens <= 16_384);
      if (shares.length === 0) return undefined;
      return {
        measured: shares
          .map(({ tokens, share }) => `${percent(share)} at ${formatCount(tokens)} tokens`)
          .join(", "),
        reached: shares.every(({ share }) => share >= 0.6),
      };
    },
  },
  {
    goal: "the whole page: at least 1.5 times the tokens/s of PyTorch with PEFT, in a third of its peak memory",
    answer: (results) => {
      const peer = results.of({ side: "plain" })?.figures;
      if (!peer) return undefined;
      const best = results.all().filter(({ figures }) => figures.peakBytes <= peer.peakBytes / 3)[0];
      if (!best) return { measured: "nothing takes so little", reached: false };
      const ratio = peer.seconds / best.figures.seconds;
      const part = (best.figures.peakBytes / peer.peakBytes).toFixed(2);
      const { base, placement, capBytes } = best.case;
      const way = `${base}, ${placement}${capBytes ? ` within ${formatBytes(capBytes)}` : ""}`;
      return { measured: `${ratio.toFixed(2)} times in ${part} of it (${way})`, reached: ratio >= 1.5 };
    },
  },
  {
    goal: "NF4 at most 10 % slower than bf16",
    answer: (results) => slowdown(results, [{ base: "nf4" }], {}, 0.1),
  },
  {
    goal: "fp8 at least 1.4 times as fast as bf16",
    answer: (results) => {
      const [fp8, bf16] = [results.of({ base: "fp8" }), results.of({})];
      if (!fp8 || !bf16) return undefined;
      const ratio = bf16.figures.seconds / fp8.figures.seconds;
      return { measured: `${ratio.toFixed(2)} times`, reached: ratio >= 1.4 };
    },
  },
  {
    goal: "boundaries on the host at most 5 % slower than on the device",
    answer: (results) =>
      slowdown(results, [{ placement: "offloaded" }, { placement: "offloadedAhead" }], {}, 0.05),
  },
  {
    goal: "16,384 tokens: streamed weights at most 30 % slower than resident ones",
    answer: (results) => {
      const long = { tokens: 16_384 };
      const streamed = [
        { ...long, placement: "streamedAhead" as const },
        { ...long, placement: "planned" as const, capBytes: 16 * GIB },
      ];
      return slowdown(results, streamed, long, 0.3);
    },
  },
  ...(["nf4", "bf16"] as const).map((base) => ({
    goal: `the whole page trains under a cap of 8 GiB, ${base}`,
    ofMemory: true,
    answer: (results: Results): Answer | undefined => {
      const row = results.row({ base, placement: "planned", capBytes: 8 * GIB });
      const outcome = row?.outcomes.lorafit;
      if (!outcome) return undefined;
      if ("failed" in outcome)
        return { measured: outcome.failed.split("\n")[0]!.slice(0, 60), reached: false };
      const bytes = outcome.reservedPeakBytes ?? outcome.peakBytes;
      return { measured: `${formatBytes(bytes)} reserved at the peak`, reached: bytes <= 8 * GIB };
    },
  })),
  {
    goal: "measured memory as planned: within 1 % allocated, 3 % reserved",
    ofMemory: true,
    answer: (results) => {
      const off = results.offPlan();
      if (off.length === 0) return undefined;
      const [allocated, reserved] = [0, 1].map((at) => Math.max(...off.map((pair) => pair[at as 0 | 1])));
      return {
        measured: `${percent(allocated!, 2)} and ${percent(reserved!, 2)} off at most`,
        reached: allocated! <= 0.01 && reserved! <= 0.03,
      };
    },
  },
  {
    goal: "steps wait for pictures at most 1 % of their time",
    answer: (results) => {
      const shares = results.all({}).flatMap(({ figures }) => figures.dataStallShare ?? []);
      if (shares.length === 0) return undefined;
      const most = Math.max(...shares);
      return { measured: `${percent(most, 1)} at most`, reached: most <= 0.01 };
    },
  },
];

/** Every goal that times are needed for is left out where only memory was asked for. */
export function goalsTable(rows: readonly Row[], flopsPerSecond: number, memoryAlone: boolean): string {
  const results = new Results(rows, flopsPerSecond);
  const lines = GOALS.filter(({ ofMemory }) => ofMemory || !memoryAlone).map(({ goal, answer }) => {
    const { measured, reached } = answer(results) ?? { measured: "not measured yet", reached: undefined };
    return `| ${goal} | ${measured} | ${reached === undefined ? "-" : reached ? "yes" : "no"} |`;
  });
  return ["| goal | measured | reached |", "|---|---|---|", ...lines, ""].join("\n");
}

/**
 * Finds a case that differs by `wanted` from the whole page in bf16, resident, uncapped, at the largest rank.
 */
interface Asked {
  side?: Side;
  base?: Base;
  placement?: Placement;
  tokens?: number;
  capBytes?: number;
}

interface Result {
  case: GpuCase;
  figures: Figures;
}

class Results {
  readonly #rows: readonly Row[];
  readonly #flopsPerSecond: number;
  /** Rows and tokens of the whole page, the largest picture, without further text. */
  readonly #page: { rank: number; hdNum: number; tokens: number } | undefined;

  constructor(rows: readonly Row[], flopsPerSecond: number) {
    this.#rows = rows;
    this.#flopsPerSecond = flopsPerSecond;
    if (rows.length === 0) return;
    const rank = Math.max(...rows.map((row) => row.case.rank));
    const hdNum = Math.max(...rows.map((row) => row.case.hdNum));
    this.#page = { rank, hdNum, tokens: tokensIn({ hdNum }) };
  }

  row({
    base = "bf16",
    placement = "resident",
    capBytes,
    tokens = this.#page?.tokens,
  }: Asked): Row | undefined {
    return this.#rows.find(
      ({ case: one }) =>
        one.rank === this.#page!.rank &&
        one.base === base &&
        one.placement === placement &&
        one.capBytes === capBytes &&
        tokensIn(one) === tokens,
    );
  }

  of(asked: Asked): Result | undefined {
    const row = this.row(asked);
    return row && resultOf(row, asked.side ?? "lorafit");
  }

  /** Ours of the whole page in every way, the fastest first. */
  all({ tokens = this.#page?.tokens }: Asked = {}): Result[] {
    return this.#rows
      .filter(({ case: one }) => one.rank === this.#page!.rank && tokensIn(one) === tokens)
      .flatMap((row) => resultOf(row, "lorafit") ?? [])
      .sort((one, other) => one.figures.seconds - other.figures.seconds);
  }

  /** Our best uncapped bf16 figure, by length. */
  rateShares(): { tokens: number; share: number }[] {
    const best = new Map<number, number>();
    for (const row of this.#rows) {
      const { base, capBytes } = row.case;
      const result = resultOf(row, "lorafit");
      if (!result || base !== "bf16" || capBytes || this.#flopsPerSecond === 0) continue;
      const share = rateShare(necessaryFlops(row.case), result.figures.seconds, this.#flopsPerSecond);
      const tokens = tokensIn(row.case);
      best.set(tokens, Math.max(share, best.get(tokens) ?? 0));
    }
    return [...best].sort(([one], [other]) => one - other).map(([tokens, share]) => ({ tokens, share }));
  }

  /** Distance of allocated and reserved peaks from each plan, as shares. */
  offPlan(): [number, number][] {
    return this.#rows.flatMap((row) => {
      const { planned } = row;
      const figures = resultOf(row, "lorafit")?.figures;
      if (!planned || !figures) return [];
      const off = (measured = 0, expected = 0): number =>
        expected === 0 ? 0 : Math.abs(measured / expected - 1);
      return [
        [
          off(figures.peakBytes, planned.allocatedBytes),
          off(figures.reservedPeakBytes, planned.reservedBytes),
        ] as [number, number],
      ];
    });
  }
}

/** The fastest of some ways beside another. */
function slowdown(results: Results, ways: readonly Asked[], beside: Asked, most: number): Answer | undefined {
  const other = results.of(beside);
  const seconds = ways.flatMap((way) => results.of(way)?.figures.seconds ?? []);
  if (!other || seconds.length === 0) return undefined;
  const slower = Math.min(...seconds) / other.figures.seconds - 1;
  return { measured: `${percent(slower, 1)} slower`, reached: slower <= most };
}

function resultOf({ case: one, outcomes }: Row, side: Side): Result | undefined {
  const outcome = outcomes[side];
  return outcome && !("failed" in outcome) ? { case: one, figures: outcome } : undefined;
}

function tokensIn(one: Pick<GpuCase, "hdNum" | "textTokens">): number {
  const { text, image } = tokensOf(one);
  return text + image;
}

function percent(share: number, digits = 0): string {
  return `${(100 * share).toFixed(digits)} %`;
}
