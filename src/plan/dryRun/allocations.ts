/**
 * Lists every planned allocation of one micro-batch and its update, to compare with a run's measured ones and
 * find the first difference.
 */
import { stepAdamW } from "../../step/optimizer/optimizer.ts";
import { clippedScale } from "../../step/optimizer/updateGate.ts";
import { queueStep } from "../../step/step.ts";
import {
  type AllocationLog,
  CATEGORIES,
  type Category,
  POOLS,
  type Pool,
  planningFor,
} from "../../torch/device.ts";
import { dispose, scope } from "../../torch/tensor.ts";
import { traced } from "../../torch/trace.ts";
import { plannedBatch } from "./batchShapes.ts";
import { type Bytes, type Configuration, planTargetOf } from "./dryRun.ts";
import { openOnMeta } from "./sharedParts.ts";

/** An allocation of `bytes`, or a free if `bytes` is below zero. */
export interface TraceEvent {
  phase: string;
  pool: Pool;
  category: Category;
  bytes: number;
}

export interface StepTrace {
  /** Bytes alive in each pool when the micro-batch begins. */
  before: Record<Pool, Bytes>;
  events: TraceEvent[];
}

/**
 * Runs the micro-batch of a configuration in full, on meta. isLast: it ends its step, so the norm of the
 * gradients and the update follow.
 */
export function plannedTrace(configuration: Configuration, { isLast }: { isLast: boolean }): StepTrace {
  return planningFor(planTargetOf(configuration), () =>
    traced("meta", (take) => {
      using run = openOnMeta(configuration);
      const before = liveAfter(take().log);
      const events: TraceEvent[] = [];
      const end = (phase: string): void => void events.push(...eventsOf(take().log, phase));
      const { model, lora, optimizer } = run;
      const {
        batch,
        policy,
        lora: { dropout },
      } = configuration;
      const normOf = isLast ? optimizer.parameters : undefined;
      const options = { lossScale: 1, normOf, ...(dropout > 0 && { dropoutSeed: 1n }) };
      let phase = "vision";
      const steps = queueStep(model, lora, plannedBatch(batch), policy, options);
      let next = steps.next();
      for (; !next.done; next = steps.next()) {
        ({ phase } = next.value);
        end(phase);
      }
      end(phase);
      using queued = next.value;
      if (!isLast) return { before, events };
      queued.read();
      scope(() => stepAdamW(optimizer, 1e-4, clippedScale(queued.norm!, 1, 1)));
      dispose(queued.norm);
      end("update");
      return { before, events };
    }),
  );
}

/** Returns a log's allocations and frees, each with the phase of its step. */
export function eventsOf({ bytes, pools, categories }: AllocationLog, phase: string): TraceEvent[] {
  return Array.from(bytes, (count, index) => ({
    phase,
    pool: POOLS[pools[index]!]!,
    category: CATEGORIES[categories[index]!]!,
    bytes: count,
  }));
}

function liveAfter(log: AllocationLog): Record<Pool, Bytes> {
  const zero = (): Bytes => Object.fromEntries(CATEGORIES.map((name) => [name, 0])) as Bytes;
  const live = { device: zero(), host: zero() };
  for (const { pool, category, bytes } of eventsOf(log, "start")) {
    live[pool][category] += bytes;
  }
  return live;
}
