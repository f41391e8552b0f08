/** Shows a run: a live line and notes on a terminal, one record a step for scripts. */
import { limitsAmong } from "../../data/pictures/limits.ts";
import { plural } from "../../errors.ts";
import { flagOf } from "../../options.ts";
import { quoted } from "../../program.ts";
import { allMetrics } from "../../train/evaluate/scores.ts";
import type { StepPeaks } from "../../train/facts/peaks.ts";
import type { EvalFact, Fact, PhaseFact, RunSink, StartFact, StepFact } from "../../train/facts/runFact.ts";
import { resumeLine } from "../../train/folder/resume.ts";
import type { TrainResult } from "../../train/loop/trainer.ts";
import type { TrainOptions } from "../../train/options/options.ts";
import { metricWords, USUAL_METRICS } from "../output/metricWords.ts";
import { checkProgress, FLICKER_INTERVAL_MS, type Output } from "../output/output.ts";
import { type LiveStep, liveLine } from "./liveLine.ts";
import { defectLine, peaksLine, planLines } from "./planLines.ts";

/** Steps whose mean time gives the time left. */
const PACE_STEPS = 10;

export class TrainReport implements RunSink {
  readonly #output: Output;
  #start: StartFact | undefined;
  #losses: number[] = [];
  #stepMs: number[] = [];
  #live: LiveStep | undefined;
  #phaseAtMs = 0;
  readonly #check: (done: number, total: number) => void;
  /** Peaks of the step with the highest peak so far; undefined before the first step. */
  #highest: StepPeaks | undefined;

  constructor(output: Output) {
    this.#output = output;
    this.#check = checkProgress(output);
  }

  take(fact: Fact): void {
    if (fact.fact === "start") this.#begin(fact);
    else if (fact.fact === "check") this.#check(fact.done, fact.total);
    else if (fact.fact === "plan") for (const line of planLines(fact)) this.#output.note(line);
    else if (fact.fact === "defect") this.#output.note(defectLine(fact));
    else if (fact.fact === "notice" && fact.about) this.#output.caveat(fact.text, fact.about);
    else if (fact.fact === "notice" || fact.fact === "leaner") this.#output.note(fact.text);
    else if (fact.fact === "phase") this.#phase(fact);
    else if (fact.fact === "step") this.#step(fact);
    else if (fact.fact === "eval") this.#output.note(describeEval(fact, this.#start?.options.metric));
    else if (fact.fact === "checkpoint") this.#output.note(`saved ${fact.folder}`);
  }

  end(result: TrainResult, output: string): void {
    const peaks = this.#highest && peaksLine(this.#highest);
    if (peaks)
      this.#output.note(`peak of ${this.#before.length > 0 ? "this part of the run" : "the run"}: ${peaks}`);
    if (result.ended === "finished") {
      if (result.message) this.#output.note(`ended early: ${result.message}`);
      this.#output.answer(`${this.#course(result.step)}. The adapter is in ${result.adapter}`);
      if (this.#start) this.#output.next(waysOn(this.#start.options, result.adapter));
    } else {
      const why = result.reason ? ", as --stop-at-step says" : "";
      this.#output.note(`stopped at step ${result.step}${why}. Continue with:  ${resumeLine(output)}`);
    }
  }

  /** Records of the steps that earlier parts of the run have done. */
  get #before(): StartFact["stepsBefore"] {
    return this.#start?.stepsBefore ?? [];
  }

  /** Returns steps and loss of the whole run, and of its last part if it was resumed. */
  #course(steps: number): string {
    const before = this.#before.map(({ loss }) => loss);
    const whole = `${plural(steps, "step")} done${fallOf([...before, ...this.#losses])}`;
    if (before.length === 0) return whole;
    if (this.#losses.length === 0) return `${whole}, all of them before`;
    return `${whole}; of them ${this.#losses.length} in this part of the run${fallOf(this.#losses)}`;
  }

  #begin(fact: StartFact): void {
    const { options, step, totalSteps, samples } = fact;
    this.#start = fact;
    const rank = options.adapter === undefined ? `LoRA r ${options.lora_r}` : options.adapter;
    const course = step > 0 ? `from step ${step} of ${totalSteps}` : plural(totalSteps, "step");
    this.#output.note(
      `${options.model}, ${rank}, ${precisionWords(options)} on ${options.device}; ${plural(samples, "sample")}, ${course}, into ${options.output}`,
    );
  }

  #phase({ step, microBatch, phase }: PhaseFact): void {
    const nowMs = performance.now();
    if (nowMs - this.#phaseAtMs < FLICKER_INTERVAL_MS) return;
    this.#phaseAtMs = nowMs;
    const total = this.#start?.options.gradient_accumulation ?? 1;
    const at = total > 1 ? ` ${microBatch}/${total}` : "";
    const head = `step ${step}${at} ${phase.phase} ${phase.done}/${phase.total}`;
    this.#output.flicker(this.#live ? liveLine(this.#live, this.#output.liveColumns, head) : head);
  }

  #step({ record, totalSteps, peaks }: StepFact): void {
    const { step, loss, gradNorm, lr, tokens, tokensPerSecond, peakBytes, hostPeakBytes } = record;
    // undefined ones are not in the JSON
    const { plannedPeakBytes, reservedPeakBytes, plannedReservedPeakBytes } = record;
    const beside = { plannedPeakBytes, reservedPeakBytes, plannedReservedPeakBytes };
    const rates = { step, loss, gradNorm, lr, tokens, tokensPerSecond };
    const { ranks, waitRatio } = record; // absent for one process
    this.#output.record({ ...rates, peakBytes, hostPeakBytes, ...beside, ranks, waitRatio });
    this.#peaks(step, peaks);
    this.#losses.push(loss);
    this.#stepMs = [...this.#stepMs, record.stepMs].slice(-PACE_STEPS);
    const meanStepMs = this.#stepMs.reduce((sum, ms) => sum + ms, 0) / this.#stepMs.length;
    this.#live = {
      ...{ record, totalSteps, meanStepMs, losses: this.#losses },
      capBytes: this.#start?.options.memory,
    };
    this.#output.live(liveLine(this.#live, this.#output.liveColumns));
  }

  /** Prints the peaks of the first step, and remembers the highest. */
  #peaks(step: number, peaks: StepPeaks): void {
    const line = peaksLine(peaks);
    if (this.#highest === undefined && line) this.#output.note(`step ${step}: ${line}`);
    if (peaks.measured.device.bytes > (this.#highest?.measured.device.bytes ?? -1)) this.#highest = peaks;
  }
}

/**
 * Returns commands that use an adapter with the model and samples of the run: evaluate it, talk with it, look
 * at the run.
 */
function waysOn(options: TrainOptions, adapter: string): Record<string, string> {
  const { model, data, eval_data, output, base, head_base, vision_base } = options;
  const { image_compat, min_pixels, max_length, skip_bad, val_size, seed } = options;
  const both = wordsOf({ model, adapter });
  const compat = image_compat === "lorafit" ? undefined : image_compat;
  const seen = wordsOf({ ...limitsAmong(options), min_pixels, image_compat: compat });
  const held = wordsOf({ base, head_base, vision_base });
  const files = (eval_data ?? data).map(quoted).join(" ");
  return {
    "Evaluate it": `eval ${both}${held}--data ${files} ${seen}${wordsOf({ max_length, ...(val_size !== undefined && { val_size, seed }) })}${skip_bad ? "--skip-bad " : ""}--answers`,
    "Talk with it": `chat ${both}${held}${seen}`.trimEnd(),
    "See the run as a page": `report ${quoted(output)}`,
  };
}

/** Writes options as flags, each with a space behind; undefined ones are left out. */
function wordsOf(options: Record<string, string | number | undefined>): string {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return given.map(([key, value]) => `${flagOf(key)} ${quoted(String(value))} `).join("");
}

/** Returns ", loss 2.1 to 0.4"; nothing without steps. */
function fallOf(losses: readonly number[]): string {
  const [first, last] = [losses[0], losses.at(-1)];
  if (first === undefined || last === undefined) return "";
  return losses.length === 1
    ? `, loss ${first.toFixed(4)}`
    : `, loss ${first.toFixed(4)} to ${last.toFixed(4)}`;
}

function describeEval({ record, best }: EvalFact, metric: TrainOptions["metric"] | undefined): string {
  const { step, loss, unanswered, unevaluated } = record;
  const named = metricWords(allMetrics(record), [
    ...USUAL_METRICS,
    ...(metric && metric !== "loss" ? [metric] : []),
  ]);
  const wanting = [
    ...(unanswered === undefined ? [] : [`${unanswered} unanswered`]),
    ...(unevaluated === undefined ? [] : [`${plural(unevaluated, "sample")} left out`]),
  ].join(" and ");
  return `step ${step}: eval loss ${loss.toFixed(4)}${named}${wanting ? `, ${wanting} for lack of memory` : ""}${best ? " (best so far)" : ""}`;
}

/**
 * Returns the type that a run computes in, and the parts in fewer bits: "bf16, base in nf4, vision tower in
 * int8".
 */
export function precisionWords({
  dtype,
  base,
  head_base,
  vision_base,
}: Pick<TrainOptions, "dtype" | "base" | "head_base" | "vision_base">): string {
  const parts = { base, "embeddings and head": head_base, "vision tower": vision_base };
  const held = Object.entries(parts).filter(([, precision]) => precision && precision !== "bf16");
  return [dtype, ...held.map(([part, precision]) => `${part} in ${precision}`)].join(", ");
}
