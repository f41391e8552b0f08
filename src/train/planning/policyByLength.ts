/**
 * Which policy each micro-batch of a run has, and what it comes to. Policies are chosen by length class within what the run may take, and
 * saved with it: a run that goes on later has the same, whatever its machine is then known to be fast at.
 */
import type { MicroBatch } from "../../data/stream/batches.ts";
import type { Place } from "../../models/places.ts";
import type { StepTrace } from "../../plan/dryRun/allocations.ts";
import type { AnswerShape } from "../../plan/dryRun/answerRun.ts";
import { type BatchShape, type ExactShape, exactShape } from "../../plan/dryRun/batchShapes.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import { type FixedPolicy, leanerPolicy, runPlaces } from "../../plan/ladder.ts";
import type { Limits, Plan, Planner, RoomFor, Workload } from "../../plan/planner.ts";
import { fastestPlan } from "../../plan/search.ts";
import { DEFAULT_POLICY, type Policy, ploraOf } from "../../step/policy.ts";
import type { Demand } from "../data/memoryDemand.ts";
import { type ClassPolicy, policyOfClass } from "../options/policyFiles.ts";

/** How many times as long the micro-batches of the next class may be. */
const CLASS_RATIO = 1.5;
const SHORTEST_CLASS_TOKENS = 64;

/** What stays the same for all micro-batches of a run. */
export type RunWorkload = Pick<Workload, "rank" | "dropout" | "targets" | "accumulation">;

/** Who chooses: the planner within limits, or the user, where the host may have a limit all the same. */
export type Choice =
  | {
      by: "planner";
      limits: Limits;
      attention?: Policy["attention"] | undefined;
      /** Whether the weights that the run has been trained over had PLoRA folded into them; left out: whatever is faster. */
      folded?: boolean | undefined;
      /** What was chosen when the run began, under the same limits. */
      known?: readonly ClassPolicy[] | undefined;
    }
  /** policies: by class, the longest last. */
  | { by: "user"; policies: readonly ClassPolicy[]; hostBytes?: number | undefined };

export interface RunPlanOptions {
  planner: Planner;
  workload: RunWorkload;
  demand: Demand;
  choice: Choice;
  /** Tokens of the classes that memory ran out in, in order; the plan adds to it. */
  stepsDown: number[];
}

export class RunPlan {
  /** Of the longest micro-batches; its places are those of all. */
  readonly policy: Policy;
  /** Of the longest micro-batches, where the planner has chosen. */
  readonly longest: Plan | undefined;
  /** Most tokens of each class, ascending. */
  readonly #classes: number[];
  readonly #options: RunPlanOptions;
  readonly #places: FixedPolicy;
  /** As chosen, from the shortest class to the longest: with the time all that the run has. */
  readonly policies: ClassPolicy[] = [];
  /** Any budget on the device, and what the host has. */
  readonly #room: Limits;
  /** Of each class, after the steps down. */
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

  /** Tokens of the classes that memory ran out in, in order. */
  get stepsDown(): number[] {
    return this.#options.stepsDown;
  }

  /** The copy of the gradients by which a micro-batch is undone; undefined where a step has but one. */
  get gradientCopy(): { place: Place; bytes: number } | undefined {
    const { planner, workload, demand } = this.#options;
    const asked = workloadOf(workload, demand.shapeOf(demand.mostTokens));
    const place = planner.gradientCopy(asked, this.policy, this.#room);
    return place && { place, bytes: planner.gradientBytes(asked, this.policy) };
  }

  /** The policy of micro-batches of so many tokens. */
  policyFor(tokens: number): Policy {
    const most = this.classOf(tokens);
    const known = this.#current.get(most);
    if (known) return known;
    let policy = this.#plannedFor(most);
    for (const step of this.#options.stepsDown) if (step <= most) policy = this.leaner(policy) ?? policy;
    this.#current.set(most, policy);
    return policy;
  }

  /** Takes the next leaner policy for micro-batches of so many tokens and longer ones; undefined where there is none. */
  stepDown(tokens: number): Policy | undefined {
    const leaner = this.leaner(this.policyFor(tokens));
    if (!leaner) return undefined;
    this.#options.stepsDown.push(this.classOf(tokens));
    this.#current.clear();
    return leaner;
  }

  /** The run of a micro-batch under its policy, to the byte. */
  planned(batch: MicroBatch): DryRun {
    return this.#dryRun(exactShape(batch), batch.inputIds.length);
  }

  /** The most that a micro-batch of so many tokens may come to. */
  plannedAtMost(tokens: number): DryRun {
    const most = this.classOf(tokens);
    return this.#dryRun(this.#options.demand.shapeOf(most), most);
  }

  /** Every allocation of a micro-batch under its policy; where it is the last of its step, of the update too. */
  trace(batch: MicroBatch, options: { isLast: boolean }): StepTrace {
    const { planner, workload } = this.#options;
    const asked = { ...workloadOf(workload, exactShape(batch)), batch: exactShape(batch) };
    return planner.trace(asked, this.policyFor(batch.inputIds.length), this.#room, options);
  }

  /** Whether an answer of an evaluation has room beside what the run holds, and what that comes to. */
  answer(shape: AnswerShape, limits: Limits): RoomFor {
    const { planner, workload, demand } = this.#options;
    return planner.answer(workloadOf(workload, demand.shapeOf(1)), this.policy, limits, shape);
  }

  /** Whether the loss of a sample that is only evaluated has room under a policy of this run's places. */
  loss(shape: BatchShape, policy: Policy, limits: Limits): RoomFor {
    const { planner, workload } = this.#options;
    return planner.loss(workloadOf(workload, shape), policy, limits);
  }

  #dryRun(batch: BatchShape | ExactShape, tokens: number): DryRun {
    const { planner, workload } = this.#options;
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

  /** The fastest, over weights that PLoRA is folded into as before wherever that fits. */
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

  /** The fastest for the longest micro-batch, but for PLoRA, which is folded, once for all of a run, only where that is faster for the data. */
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

  /** The next leaner policy over the same places. */
  leaner(policy: Policy): Policy | undefined {
    return leanerPolicy(policy, this.#options.planner.config, this.#places);
  }

  /** Most tokens of the class of micro-batches of so many. */
  classOf(tokens: number): number {
    return classOf(this.#classes, tokens);
  }
}

/** The class of so many tokens; the last one where there are more. */
export function classOf(classes: readonly number[], tokens: number): number {
  return classes.find((most) => tokens <= most) ?? classes.at(-1)!;
}

/** The planner's workload for one micro-batch, whose shape stands in place of sizes. */
export function workloadOf(workload: RunWorkload, batch: BatchShape | ExactShape): Workload {
  return { ...workload, maxLength: 0, hdNum: 0, imageShare: undefined, batchSize: 1, batch };
}

/** The longest is a class of its own, so that none of its room is lost. */
export function classesUpTo(mostTokens: number): number[] {
  const classes: number[] = [];
  for (let tokens = SHORTEST_CLASS_TOKENS; tokens < mostTokens; tokens = Math.ceil(tokens * CLASS_RATIO)) {
    classes.push(tokens);
  }
  return [...classes, mostTokens];
}
