/**
 * Plans the losses of an evaluation before anything is loaded: the policy of each length, and the samples
 * that do not fit. A sample that is only evaluated may be longer than all that is trained on, and needs less
 * memory: nothing is kept for a backward pass.
 */
import type { PreparedSample } from "../../data/samples/validate.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import type { StepDown } from "../../plan/ladder.ts";
import type { Limits } from "../../plan/planner.ts";
import type { Policy } from "../../step/policy.ts";
import type { Category } from "../../torch/device.ts";
import { type Demand, demandOf } from "../data/memoryDemand.ts";
import { classesUpTo, classOf, type RunPlan } from "./policyByLength.ts";

export interface LossPlanOptions {
  plan: RunPlan;
  /** At least one. */
  samples: readonly PreparedSample[];
  /** Memory limits; undefined if none is known. */
  room: Limits | undefined;
  /** The evaluations' steps to leaner policies, in order; the plan adds to it. */
  stepsDown: StepDown[];
}

/** A planned loss. */
export interface PlannedLoss {
  sample: PreparedSample;
  policy: Policy;
  run: DryRun;
}

export class LossPlan {
  readonly demand: Demand;
  /** The samples that fit, in their order; all if nothing was planned. */
  readonly kept: readonly PreparedSample[];
  /** The others, the shortest first. */
  readonly left: readonly PreparedSample[];
  /** The longest sample that fits, under a policy that it fits with. */
  readonly largest: PlannedLoss | undefined;
  /** The shortest sample that does not fit, under the leanest policy. */
  readonly least: PlannedLoss | undefined;
  readonly #options: LossPlanOptions;
  readonly #classes: readonly number[];
  /** Policies that fit, by class and by the policy to start from. */
  readonly #fitting = new Map<string, Policy>();

  constructor(options: LossPlanOptions) {
    const { samples, room, plan } = options;
    this.#options = options;
    this.demand = demandOf(samples, { by: "samples", samples: 1 });
    this.#classes = classesUpTo(this.demand.mostTokens);
    const byTokens = samples.toSorted((one, other) => one.tokens - other.tokens);
    const count = room ? this.#countThatFits(byTokens) : samples.length;
    this.left = byTokens.slice(count);
    const left = new Set(this.left);
    this.kept = samples.filter((sample) => !left.has(sample));
    const plannedOf = (sample: PreparedSample): PlannedLoss => {
      const policy = this.#firstThatFits(forwardOnly(plan.policy), sample.tokens);
      return { sample, policy, run: this.#loss(sample.tokens, policy).run };
    };
    this.largest = room && count > 0 ? plannedOf(byTokens[count - 1]!) : undefined;
    this.least = this.left[0] && plannedOf(this.left[0]);
  }

  /** The evaluations' steps to leaner policies, in order. */
  get stepsDown(): StepDown[] {
    return this.#options.stepsDown;
  }

  /**
   * Returns the policy for so many tokens: the one of training at that length, or the first leaner one that
   * fits.
   */
  policyFor(tokens: number): Policy {
    const { plan, stepsDown } = this.#options;
    const most = classOf(this.#classes, tokens);
    const start = forwardOnly(plan.policyFor(tokens));
    const key = JSON.stringify([most, start]);
    const known = this.#fitting.get(key);
    let policy = known ?? this.#firstThatFits(start, most);
    this.#fitting.set(key, policy);
    for (const { tokens: from, short } of stepsDown)
      if (from <= most) policy = this.#leaner(policy, short) ?? policy;
    return policy;
  }

  /**
   * Moves to the next leaner policy for losses of so many tokens and more, and returns it; undefined if there
   * is none.
   */
  stepDown(tokens: number, short?: Category): Policy | undefined {
    const leaner = this.#leaner(this.policyFor(tokens), short);
    if (leaner) this.#options.stepsDown.push({ tokens: classOf(this.#classes, tokens), short });
    return leaner;
  }

  /** Counts the samples, from the shortest, that fit under the leanest policy. */
  #countThatFits(byTokens: readonly PreparedSample[]): number {
    const fits = ({ tokens }: PreparedSample): boolean =>
      this.#loss(tokens, this.#firstThatFits(forwardOnly(this.#options.plan.policy), tokens)).fits;
    let [fitting, tooMany] = [0, byTokens.length + 1];
    for (let count = byTokens.length; count > fitting; count = Math.floor((fitting + tooMany) / 2)) {
      if (fits(byTokens[count - 1]!)) fitting = count;
      else tooMany = count;
    }
    return fitting;
  }

  /** Returns the first policy that fits, or the leanest one if none does. */
  #firstThatFits(start: Policy, tokens: number): Policy {
    let policy = start;
    if (!this.#options.room) return policy;
    while (!this.#loss(tokens, policy).fits) {
      const leaner = this.#leaner(policy);
      if (!leaner) break;
      policy = leaner;
    }
    return policy;
  }

  #loss(tokens: number, policy: Policy): { fits: boolean; run: DryRun } {
    const { plan, room } = this.#options;
    return plan.loss(this.demand.shapeOf(tokens), policy, room!);
  }

  /** Returns the next leaner policy that differs in what a forward pass does. */
  #leaner(policy: Policy, short?: Category): Policy | undefined {
    const { plan } = this.#options;
    const before = JSON.stringify(policy);
    let next = plan.leaner(policy, short);
    while (next && JSON.stringify(forwardOnly(next)) === before) next = plan.leaner(next, short);
    return next && forwardOnly(next);
  }
}

/** Returns a policy without choices that concern only the backward pass. */
export function forwardOnly(policy: Policy): Policy {
  return {
    ...policy,
    boundaryAhead: false,
    layers: [{ count: 1, boundary: "device", keep: "nothing" }],
  };
}
