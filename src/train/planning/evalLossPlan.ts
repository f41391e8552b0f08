/**
 * The losses of an evaluation: which policy a sample of a length has, and which samples a run has no room for, known before anything is
 * loaded. What is only evaluated may be longer than all that is trained on, and takes less: nothing is kept for a backward.
 */
import type { PreparedSample } from "../../data/samples/validate.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import type { Limits } from "../../plan/planner.ts";
import type { Policy } from "../../step/policy.ts";
import { type Demand, demandOf } from "../data/memoryDemand.ts";
import { classesUpTo, classOf, type RunPlan } from "./policyByLength.ts";

export interface LossPlanOptions {
  plan: RunPlan;
  /** At least one. */
  samples: readonly PreparedSample[];
  /** What a run may take; undefined where nothing says so. */
  room: Limits | undefined;
  /** Tokens of the classes that memory ran out in, in order; the plan adds to it. */
  stepsDown: number[];
}

/** A loss that was planned. */
export interface PlannedLoss {
  sample: PreparedSample;
  policy: Policy;
  run: DryRun;
}

export class LossPlan {
  readonly demand: Demand;
  /** The samples that there is room for, in their order; all where nothing was planned. */
  readonly kept: readonly PreparedSample[];
  /** The others, the shortest first. */
  readonly left: readonly PreparedSample[];
  /** The longest sample that is kept, under a policy that has room for it. */
  readonly largest: PlannedLoss | undefined;
  /** The shortest that is left out, under the leanest policy. */
  readonly least: PlannedLoss | undefined;
  readonly #options: LossPlanOptions;
  readonly #classes: readonly number[];
  /** The policies that there is room under: by class, and by the policy to start from. */
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

  /** Tokens of the classes that memory ran out in, in order. */
  get stepsDown(): number[] {
    return this.#options.stepsDown;
  }

  /** Of a sample of so many tokens: what training has at that length, or the first leaner one that has room. */
  policyFor(tokens: number): Policy {
    const { plan, stepsDown } = this.#options;
    const most = classOf(this.#classes, tokens);
    const start = forwardOnly(plan.policyFor(tokens));
    const key = JSON.stringify([most, start]);
    const known = this.#fitting.get(key);
    let policy = known ?? this.#firstThatFits(start, most);
    this.#fitting.set(key, policy);
    for (const step of stepsDown) if (step <= most) policy = this.#leaner(policy) ?? policy;
    return policy;
  }

  /** Takes the next leaner policy for losses of so many tokens and more; undefined where there is none. */
  stepDown(tokens: number): Policy | undefined {
    const leaner = this.#leaner(this.policyFor(tokens));
    if (leaner) this.#options.stepsDown.push(classOf(this.#classes, tokens));
    return leaner;
  }

  /** Samples, from the shortest, that have room under the leanest policy. */
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

  /** The leanest one where none does. */
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

  /** The next one that differs in what a forward does. */
  #leaner(policy: Policy): Policy | undefined {
    const { plan } = this.#options;
    const before = JSON.stringify(policy);
    let next = plan.leaner(policy);
    while (next && JSON.stringify(forwardOnly(next)) === before) next = plan.leaner(next);
    return next && forwardOnly(next);
  }
}

/** A policy without what concerns the backward alone, of which there is none. */
export function forwardOnly(policy: Policy): Policy {
  return {
    ...policy,
    boundaryAhead: false,
    layers: [{ count: 1, boundary: "device", keep: "nothing" }],
  };
}
