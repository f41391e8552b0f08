/**
 * Measures every configuration on a card beside the official recipe, and prints tables in Markdown, the goals
 * first.
 *
 *     run.js [--device cuda:0] [--all] [--only TEXT]
 *
 * In a checkout run.js is in bench-out/bench/gpu; in a bundle run `./lorafit --node bench/gpu/run.js`.
 * `--memory` measures peaks only, which a phantom card can do as well. `--device cpu --size tiny` tests the
 * logic without a card.
 *
 * The most valuable cases come first. Each measurement is written at once to FILE.jsonl beside the tables of
 * --out FILE.md (default: bench/results/DATE-CARD.md). A later run with the same --out does not repeat it;
 * `--again` does. `--minutes` limits the time. A kill loses only the measurement under way.
 *
 * The peers need a Python with torch, peft, transformers and safetensors (--python), and for their kernels
 * bench/peers/requirements-kernels.txt.
 */
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cardInfo, libtorchVersion } from "../../src/torch/device.ts";
import { driverVersion } from "../../src/torch/install/driver.ts";
import { packageRoot } from "../../src/torch/install/libtorch.ts";
import { tryCompiling, whyTwins } from "../../src/torch/kernels/fusedKernel.ts";
import { goalsTable } from "./goals.ts";
import { hashOf, isSettled, Journal } from "./journal.ts";
import { casesOf, type GpuCase, memoryCases, SIZES, type Size, titleOf } from "./matrix.ts";
import { canDo, Measure } from "./measure.ts";
import { memoryTable, SIDES, type Side, speedTable, summaryOf } from "./tables.ts";
import type { GpuTask } from "./task.ts";

const HELP =
  "run.js [--device cuda:0|cpu] [--size 7b|tiny] [--steps 10] [--all | --memory] [--only TEXT] [--sides lorafit,plain,kernels]\n" +
  "       [--python FILE] [--out FILE.md] [--minutes N] [--again]";

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    size: { type: "string", default: "7b" },
    steps: { type: "string", default: "10" },
    all: { type: "boolean", default: false },
    memory: { type: "boolean", default: false },
    sides: { type: "string", default: SIDES.join(",") },
    only: { type: "string", default: "" },
    python: { type: "string" },
    out: { type: "string" },
    minutes: { type: "string", default: "Infinity" },
    again: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

if (flags.help) console.log(HELP);
else await main();

async function main(): Promise<void> {
  const startMs = performance.now();
  const { steps, sides, mostMs } = checkedFlags();
  const cases = flags.memory ? memoryCases(flags.size as Size) : casesOf(flags.size as Size, flags.all);
  const chosen = cases.filter((each) => titleOf(each).includes(flags.only));
  const work = mkdtempSync(join(tmpdir(), "lorafit-bench-"));
  process.once("exit", () => rmSync(work, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
  const out = flags.out ?? resultFile() ?? join(work, "tables.md");
  const journal = new Journal(out.replace(/(\.md)?$/, ".jsonl"), {
    machine: machineOf(),
    programs: programs(),
  });
  const due = flags.again
    ? chosen.flatMap((each) =>
        sides.filter((side) => canDo(side, each)).map((side) => ({ case: each, side })),
      )
    : dueOf(chosen, sides, journal);
  const measure = new Measure(work, {
    device: flags.device as GpuTask["device"],
    python: flags.python,
    steps,
  });
  let longestMs = 0;
  for (const [at, { case: wanted, side }] of due.entries()) {
    const beginMs = performance.now();
    if (beginMs + longestMs - startMs > mostMs) {
      console.error(
        `The minutes are used up; ${due.length - at} of ${due.length} measurements are left for a run like this one.`,
      );
      break;
    }
    const { outcome, facts } = await measure.of(wanted, side);
    journal.add({ ...{ case: wanted, side, steps, outcome }, facts });
    longestMs = Math.max(longestMs, performance.now() - beginMs);
    console.error(`${at + 1}/${due.length}  ${titleOf(wanted)}  ${side}  ${summaryOf(outcome)}`);
    writeReport(out, reportOf(journal, cases));
  }
  console.log(reportOf(journal, cases));
}

/** Throws where one of them can't be meant. */
function checkedFlags(): { steps: number; sides: Side[]; mostMs: number } {
  const sides = flags.sides.split(",") as Side[];
  const wrong = (flag: string, takes: string): never => {
    throw new Error(`--${flag} takes ${takes}.\n${HELP}`);
  };
  if (!Object.hasOwn(SIZES, flags.size)) wrong("size", Object.keys(SIZES).join(" or "));
  if (!sides.every((side) => SIDES.includes(side))) wrong("sides", `some of ${SIDES.join(",")}`);
  if (!/^(cpu|cuda:\d+)$/.test(flags.device)) wrong("device", "cuda:0 or another card, or cpu");
  if (!(Number(flags.minutes) > 0)) wrong("minutes", "a number above 0");
  if (!/^[1-9]\d*$/.test(flags.steps)) wrong("steps", "a whole number, 1 or more");
  return { steps: Number(flags.steps), sides, mostMs: 60_000 * Number(flags.minutes) };
}

/**
 * Sorts the cases: earlier failures last, and before them peers under caps, most of which run out of memory.
 */
function dueOf(
  cases: readonly GpuCase[],
  sides: readonly Side[],
  journal: Journal,
): { case: GpuCase; side: Side }[] {
  const rank = (wanted: GpuCase, side: Side): number =>
    (journal.find(wanted, side) ? 2 : 0) + (wanted.capBytes && side !== "lorafit" ? 1 : 0);
  return cases
    .flatMap((wanted) => SIDES.map((side) => ({ case: wanted, side, rank: rank(wanted, side) })))
    .filter(({ case: wanted, side }) => {
      const found = journal.find(wanted, side);
      return sides.includes(side) && canDo(side, wanted) && !(found && isSettled(found));
    })
    .sort((one, other) => one.rank - other.rank);
}

function reportOf(journal: Journal, cases: readonly GpuCase[]): string {
  const rows = journal.rows(cases);
  const { flopsPerSecond, peers } = journal.facts();
  return [
    `# GPU bench, ${today()}`,
    "",
    `${machineOf()}; Node ${process.versions.node}; beside it ${peers.join("; ") || "no peer"}.`,
    "",
    goalsTable(rows, flopsPerSecond, flags.memory),
    ...(flags.memory ? [] : [speedTable(rows, flopsPerSecond)]),
    memoryTable(rows),
  ].join("\n");
}

/** In one piece: whoever reads it meanwhile, or a kill, finds the tables whole. */
function writeReport(path: string, report: string): void {
  writeFileSync(`${path}.part`, report);
  renameSync(`${path}.part`, path);
}

/** Undefined without a card: such tables are not kept. */
function resultFile(): string | undefined {
  if (flags.device === "cpu") return undefined;
  const { name } = cardInfo(flags.device as `cuda:${number}`);
  const card = name.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  return join(packageRoot, "bench", "results", `${today()}-${card}${flags.memory ? "-memory" : ""}.md`);
}

function today(): string {
  return new Date().toISOString().slice(0, 10);
}

function machineOf(): string {
  const libtorch = `libtorch ${libtorchVersion()}`;
  if (flags.device === "cpu") return `cpu; ${libtorch}`;
  const { name, capability } = cardInfo(flags.device as `cuda:${number}`);
  tryCompiling(capability);
  const kernels = whyTwins() ? ", without NVRTC" : "";
  return `${name}, driver ${driverVersion()}; ${libtorch}${kernels}`;
}

/** Hashes of what each side runs: our compiled sources and the engine's, and the peers' scripts. */
function programs(): Record<Side, string> {
  const here = import.meta.dirname;
  const peers = hashOf([join(packageRoot, "bench", "peers")], /\.py$/);
  const measured = ["ours.js", "planned.js", "../workload.js"].map((name) => join(here, name));
  const sources = [...measured, join(here, "..", "..", "src"), join(packageRoot, "native")];
  return { lorafit: hashOf(sources, /\.(js|cc|h)$/), plain: peers, kernels: peers };
}
