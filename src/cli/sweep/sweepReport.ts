/** Shows a sweep: notes and a live line on a terminal, one record for each trial that ends for scripts. */
import { join } from "node:path";
import { formatBytes, formatCount, plural } from "../../errors.ts";
import { commandLine, quoted } from "../../program.ts";
import type { SweepTable, Trial } from "../../runs/sweepTable.ts";
import { BEST_LINK } from "../../sweep/bestLink.ts";
import type { SweepFact } from "../../sweep/facts.ts";
import { stepsAt } from "../../sweep/halving.ts";
import { placed } from "../../sweep/show.ts";
import { fitted, formatDuration, type Output } from "../output/output.ts";
import { settingsText } from "./tableText.ts";

type Planned = Extract<SweepFact, { fact: "planned" }>;

export class SweepReport {
  readonly #output: Output;
  readonly #folder: string;
  #planned: Planned | undefined;
  #isTimed = false;

  constructor(output: Output, folder: string) {
    this.#output = output;
    this.#folder = folder;
  }

  readonly take = (fact: SweepFact): void => {
    const output = this.#output;
    if (fact.fact === "planning")
      output.live(`planning ${fact.done} of ${plural(fact.total, "memory plan")}`);
    else if (fact.fact === "planned") this.#begin(fact);
    else if (fact.fact === "rung") output.note(roundText(fact));
    else if (fact.fact === "begin") output.live(`${this.#nameOf(fact.trial)} begins on ${fact.slot.name}`);
    else if (fact.fact === "step") this.#step(fact);
    else if (fact.fact === "notice") output.note(fact.text);
    else this.#ended(fact);
  };

  #begin(fact: Planned): void {
    this.#planned = fact;
    for (const line of plannedLines(fact)) this.#output.note(line);
  }

  #step({ trial, step, loss, leftMs }: Extract<SweepFact, { fact: "step" }>): void {
    const shownLoss = typeof loss === "number" ? `loss ${loss.toFixed(3)}` : "";
    const parts = [
      { rank: 0, text: this.#nameOf(trial) },
      { rank: 1, text: `step ${step}/${trial.totalSteps}` },
      { rank: 2, text: Number.isFinite(leftMs) ? `${formatDuration(leftMs)} left in all` : "" },
      { rank: 3, text: shownLoss },
      { rank: 4, text: this.#planned ? settingsText(this.#planned.table, trial) : "" },
    ];
    this.#output.live(fitted(parts, this.#output.liveColumns));
  }

  #ended({
    fact,
    trial,
    isBest,
    isBehind,
    leftMs,
    ratio,
  }: Extract<SweepFact, { fact: "part" | "end" }>): void {
    if (fact === "end") this.#output.record(placed(this.#folder, trial));
    if (trial.state === "too-large" || isBehind) return; // listed with the plans, or when its round ended
    const result =
      trial.state === "failed"
        ? `failed: ${trial.error}\n  its messages: ${join(this.#folder, `${trial.run}.log`)}`
        : `eval loss ${trial.evalLoss?.toFixed(4)} at step ${trial.bestStep}${isBest ? " (best so far)" : ""}`;
    const settings = this.#planned ? `  ${settingsText(this.#planned.table, trial)}` : "";
    this.#output.note(`trial ${trial.trial}${settings}: ${result}`);
    if (this.#isTimed || ratio === undefined || trial.state === "failed") return;
    this.#isTimed = true;
    const byPlan =
      trial.plannedStepMs === null ? "" : `, ${ratio.toFixed(1)} times its plan without evaluations`;
    this.#output.note(
      `its ${plural(trial.step, "step")} took ${formatDuration(trial.elapsedMs)}${byPlan}; about ${formatDuration(leftMs)} left in all`,
    );
  }

  #nameOf({ trial }: Trial): string {
    return `trial ${trial} of ${this.#planned?.table.trials.length ?? "?"}`;
  }
}

function plannedLines({ table, slots, rungs, leftMs, ratio }: Planned): string[] {
  const { trials, strategy, varied, timesBy } = table;
  const over = trials.filter(({ state }) => state === "finished" || state === "failed").length;
  const source =
    ratio === undefined
      ? `by plan (${timesBy ?? "no times are known"}), without evaluations`
      : "by the trials so far";
  const time = Number.isFinite(leftMs) ? `; about ${formatDuration(leftMs)} ${source}` : "";
  return [
    `${plural(trials.length, "trial")} (${strategy}) over ${varied.join(", ")}${over > 0 ? `, ${formatCount(over)} of them done` : ""}, on ${slots.map(({ name }) => name).join(", ")}${time}`,
    ...(rungs.length > 1 ? [rungsText(rungs, trials)] : []),
    ...tooLargeLines(table),
  ];
}

/** Lists what does not fit; trials with the same plan stand together. */
function tooLargeLines({ trials }: SweepTable): string[] {
  const groups = new Map<string, Trial[]>();
  for (const trial of trials.filter(({ state }) => state === "too-large")) {
    const name = JSON.stringify([trial.plannedPeakBytes, trial.waysOut]);
    groups.set(name, [...(groups.get(name) ?? []), trial]);
  }
  return [...groups.values()].flatMap((alike) => {
    const [{ plannedPeakBytes, waysOut = [] }] = alike as [Trial];
    const names = alike.map(({ trial }) => trial);
    const who = names.length === 1 ? `trial ${names[0]} is` : `trials ${names.join(", ")} are`;
    return [
      `${who} too large and will not start: ${formatBytes(plannedPeakBytes ?? 0)} is needed. Ways to make it fit:`,
      ...waysOut.map((way) => `  ${way}`),
    ];
  });
}

function rungsText(rungs: Planned["rungs"], trials: readonly Trial[]): string {
  const steps = trials.flatMap(({ totalSteps }) => totalSteps ?? []);
  const parts = rungs.map((rung) => `${rung.trials} up to step ${stepsAt(rung, Math.min(...steps))}`);
  return `rounds: ${parts.join(", ")}`;
}

function roundText({ rung, rungs, members }: Extract<SweepFact, { fact: "rung" }>): string {
  const names = members.map(({ trial }) => trial).join(", ");
  return `round ${rung + 1} of ${rungs.length}: ${plural(members.length, "trial")} (${names})`;
}

/** Returns the lines below a table: the best adapter, and the command that trains it again. */
export function endLines({ best, reproduce, trials }: SweepTable, folder: string): string[] {
  if (best === null || reproduce === null) return [];
  const failed = trials.filter(({ state }) => state === "failed").length;
  return [
    `The best adapter is that of trial ${best}: ${join(folder, BEST_LINK)}`,
    `Train it again:  ${reproduce}`,
    ...(failed > 0
      ? [`${plural(failed, "trial")} failed; the same command with --retry runs them again`]
      : []),
    `See the table again:  ${commandLine(`sweep show ${quoted(folder)}`)}`,
  ];
}
