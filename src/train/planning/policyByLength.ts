/**
 * Chooses the policy of each micro-batch of a run, by length class and within the memory limits. A run saves
 * its policies, so a resumed run has the same ones, even if its machine has been measured since.
 */
import type { MicroBatch } from "../../data/stream/batches.ts";
import type { Place } from "../../models/places.ts";
import type { StepTrace, TraceOptions } from "../../plan/dryRun/allocations.ts";
import type { AnswerShape } from "../../plan/dryRun/answerRun.ts";
import { type BatchShape, type ExactShape, exactShape } from "../../plan/dryRun/batchShapes.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import { type FixedPolicy, leanerPolicy, runPlaces, type StepDown } from "../../plan/ladder.ts";
import type { Limits, Plan, Planner, RoomFor, RunWorkload, ShapedWorkload } from "../../plan/planner.ts";
import { fastestPlan } from "../../plan/search.ts";
import { DEFAULT_POLICY, type Policy, ploraOf } from "../../step/policy.ts";
import type { Category } from "../../torch/device.ts";
import type { Demand } from "../data/memoryDemand.ts";
import { type ClassPolicy, policyOfClass } from "../options/policyFiles.ts";

/** Maximum tokens of a class as a multiple of the class before. */
const CLASS_RATIO = 1.5;
const SHORTEST_CLASS_TOKENS = 64;

/** Who chooses the policies: the planner within limits, or the user, with a limit for the host at most. */
export type Choice =
  | {
      by: "planner";
      limits: Limits;
      attention?: Policy["attention"] | undefined;
      /**
       * Whether PLoRA was folded into the weights that the run has trained with; undefined: whatever is
       * faster.
       */
      folded?: boolean | undefined;
      /** Policies that were chosen when the run began, under the same limits. */
      known?: readonly ClassPolicy[] | undefined;
    }
  /** policies: by class, the longest last. */
  | { by: "user"; policies: readonly ClassPolicy[]; hostBytes?: number | undefined };

export interface RunPlanOptions {
  planner: Planner;
  workload: RunWorkload;
  demand: Demand;
  choice: Choice;
  /** The run's steps to leaner policies, in order; the plan adds to it. */
  stepsDown: StepDown[];
}

export class RunPlan {
  /** Policy of the longest micro-batches; its places hold for all. */
  readonly policy: Policy;
  /** Plan of the longest micro-batches; undefined if the user has chosen. */
  readonly longest: Plan | undefined;
  /** Maximum tokens of each class, ascending. */
  readonly #classes: number[];
  readonly #options: RunPlanOptions;
  readonly #places: FixedPolicy;
  /** Policies chosen so far, from the shortest class to the longest. */
  readonly policies: ClassPolicy[] = [];
  /** No limit on the device, and the host's limit. */
  readonly #room: Limits;
  /** Policy of each class after the steps down. */
  readonly #current = new Map<number, Policy>();

  constructor(options: RunPlanOptions) {
    const { demand, choice } = options;
    this.#options = options;
    this.#classes = classesUpTo(demand.mostTokens);
    if (choice.by === "planner") {
      if (choice.known?.at(-1)?.upToTokens === demand.mostTokens) this.policies.push(...choice.known);
      this.longest = this.#goingOn(choice);
    } else this.policies.push(...choice.policies);
    this.policy = this.longest?.policy ?? policyOfClass(this.policies, demand.mostTokens);
    const { attention } = choice.by === "planner" ? choice : this.policy;
    const { hostBytes = Number.POSITIVE_INFINITY } = choice.by === "planner" ? choice.limits : choice;
    this.#room = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes };
    this.#places = { places: runPlaces(this.policy), folded: ploraOf(this.policy).folded, attention };
    if (choice.by === "planner") this.#choose(demand.mostTokens, this.policy);
  }

  /** The run's steps to leaner policies, in order. */
  get stepsDown(): StepDown[] {
    return this.#options.stepsDown;
  }

  /** The copy of the gradients that undoes a micro-batch; undefined if a step has only one. */
  get gradientCopy(): { place: Place; bytes: number } | undefined {
    const { planner, workload, demand } = this.#options;
    const asked = workloadOf(workload, demand.shapeOf(demand.mostTokens));
    const place = planner.gradientCopy(asked, this.policy, this.#room);
    return place && { place, bytes: planner.gradientBytes(asked, this.policy) };
  }

  /** Returns the policy of micro-batches of so many tokens. */
  policyFor(tokens: number): Policy {
    const most = this.classOf(tokens);
    const known = this.#current.get(most);
    if (known) return known;
    let policy = this.#plannedFor(most);
    for (const { tokens: from, short } of this.#options.stepsDown)
      if (from <= most) policy = this.leaner(policy, short) ?? policy;
    this.#current.set(most, policy);
    return policy;
  }

  /**
   * Moves to the next leaner policy for micro-batches of so many tokens and more, and returns it; undefined
   * if there is none.
   */
  stepDown(tokens: number, short?: Category): Policy | undefined {
    const leaner = this.leaner(this.policyFor(tokens), short);
    if (!leaner) return undefined;
    this.#options.stepsDown.push({ tokens: this.classOf(tokens), short });
    this.#current.clear();
    return leaner;
  }

  /** Plans a micro-batch under its policy on this rank, to the byte. */
  planned(batch: MicroBatch): DryRun {
    const { planner } = this.#options;
    const shape = exactShape(batch, planner.rowSharers);
    return this.#dryRun(shape, batch.inputIds.length, planner.asRank());
  }

  /** Plans the largest micro-batch of the length class of so many tokens. */
  plannedAtMost(tokens: number): DryRun {
    const most = this.classOf(tokens);
    return this.#dryRun(this.#options.demand.shapeOf(most), most);
  }

  /**
   * Lists every allocation of a micro-batch under its policy; with the update if it is the last of its step.
   */
  trace(batch: MicroBatch, options: TraceOptions): StepTrace {
    const { planner, workload } = this.#options;
    const asked = workloadOf(workload, exactShape(batch, planner.rowSharers));
    return planner.asRank().trace(asked, this.policyFor(batch.inputIds.length), this.#room, options);
  }

  /** Plans an answer of an evaluation beside what the run holds, and says whether it fits. */
  answer(shape: AnswerShape, limits: Limits): RoomFor {
    const { planner, workload, demand } = this.#options;
    return planner.answer(workloadOf(workload, demand.shapeOf(1)), this.policy, limits, shape);
  }

  /**
   * Plans the loss of a sample that is only evaluated, under a policy with this run's places, and says
   * whether it fits.
   */
  loss(shape: BatchShape | ExactShape, policy: Policy, limits: Limits): RoomFor {
    const { planner, workload } = this.#options;
    return planner.loss(workloadOf(workload, shape), policy, limits);
  }

  #dryRun(batch: BatchShape | ExactShape, tokens: number, planner: Planner = this.#options.planner): DryRun {
    const { workload } = this.#options;
    return planner.plan(workloadOf(workload, batch), this.policyFor(tokens), this.#room).run;
  }

  #plannedFor(most: number): Policy {
    const { choice } = this.#options;
    if (choice.by === "user") return policyOfClass(choice.policies, most);
    const known = this.#known(most);
    if (known) return known;
    const { fits, policy } = this.#fastest(most, choice.limits, this.#places);
    return this.#choose(most, fits ? policy : this.policy);
  }

  #known(most: number): Policy | undefined {
    return this.policies.find(({ upToTokens }) => upToTokens === most)?.policy;
  }

  #choose(most: number, policy: Policy): Policy {
    if (!this.#known(most)) this.policies.push({ upToTokens: most, policy });
    this.policies.sort((one, other) => one.upToTokens - other.upToTokens);
    return policy;
  }

  /** Returns the fastest plan that keeps PLoRA folded into the weights, or not, as before, if that fits. */
  #goingOn({ limits, attention, folded }: Extract<Choice, { by: "planner" }>): Plan {
    const { planner, workload, demand } = this.#options;
    const known = this.#known(demand.mostTokens);
    if (known) {
      const plan = planner.plan(workloadOf(workload, demand.shapeOf(demand.mostTokens)), known, limits);
      if (plan.fits) return plan;
      this.policies.length = 0; // of another version of lorafit
    }
    const plan = this.#fastestOfData(limits, attention);
    if (folded === undefined || folded === ploraOf(plan.policy).folded) return plan;
    if (folded && !planner.folds(DEFAULT_POLICY)) return plan;
    const asBefore = this.#fastest(demand.mostTokens, limits, { attention, folded });
    return asBefore.fits ? asBefore : plan;
  }

  /**
   * Returns the fastest plan for the longest micro-batch. PLoRA is folded, once for the whole run, only if
   * that is faster for the data.
   */
  #fastestOfData(limits: Limits, attention: Policy["attention"] | undefined): Plan {
    const { planner, workload, demand } = this.#options;
    const plan = this.#fastest(demand.mostTokens, limits, { attention });
    const dataMs = (policy: Policy): number =>
      demand.typical.reduce(
        (sum, batch) => sum + planner.plan(workloadOf(workload, batch), policy, limits).stepMs,
        0,
      );
    if (!plan.fits || !ploraOf(plan.policy).folded) return plan;
    if (dataMs(plan.policy) <= dataMs({ ...plan.policy, plora: "merged" })) return plan;
    const unfolded = this.#fastest(demand.mostTokens, limits, { attention, folded: false });
    return dataMs(plan.policy) <= dataMs(unfolded.policy) ? plan : unfolded;
  }

  #fastest(tokens: number, limits: Limits, fixed: FixedPolicy): Plan {
    const { planner, workload, demand } = this.#options;
    return fastestPlan(planner, workloadOf(workload, demand.shapeOf(tokens)), limits, fixed);
  }

  /**
   * Returns the next leaner policy with the same places. short: the category of an allocation that failed.
   */
  leaner(policy: Policy, short?: Category): Policy | undefined {
    return leanerPolicy(policy, this.#options.planner.configOfRank, this.#places, short);
  }

  /** Returns the maximum tokens of the class of so many tokens. */
  classOf(tokens: number): number {
    return classOf(this.#classes, tokens);
  }
}

/** Returns the class of so many tokens; the last class for more. */
export function classOf(classes: readonly number[], tokens: number): number {
  return classes.find((most) => tokens <= most) ?? classes.at(-1)!;
}

/** Returns the planner's workload for one micro-batch. */
export function workloadOf(workload: RunWorkload, batch: BatchShape | ExactShape): ShapedWorkload {
  return { ...workload, batch };
}

/**
 * Returns the classes. The longest micro-batch is a class of its own, so that none of its memory is wasted.
 */
export function classesUpTo(mostTokens: number): number[] {
  const classes: number[] = [];
  for (let tokens = SHORTEST_CLASS_TOKENS; tokens < mostTokens; tokens = Math.ceil(tokens * CLASS_RATIO)) {
    classes.push(tokens);
  }
  return [...classes, mostTokens];
}
