/**
 * Lists every planned allocation of one micro-batch and its update, to compare with a run's measured ones, to
 * find the first difference, or to look at.
 */
import { normOfGradients, stepAdamW } from "../../step/optimizer/optimizer.ts";
import { clippedScale } from "../../step/optimizer/updateGate.ts";
import { queueStep } from "../../step/step.ts";
import { CATEGORIES, type Pool, planningFor, readAllocations } from "../../torch/device.ts";
import { dispose, keep, scope } from "../../torch/tensor.ts";
import { traced } from "../../torch/trace.ts";
import { plannedBatch } from "./batchShapes.ts";
import { type Configuration, sharersOf } from "./configuration.ts";
import { type Bytes, planTargetOf } from "./dryRun.ts";
import { openOnMeta, sumOnMeta } from "./sharedParts.ts";
import { type StepEvent, StepEvents, type TraceEvent, withStacks } from "./stepEvents.ts";

export interface StepTrace<Event extends TraceEvent = TraceEvent> {
  /** Bytes alive in each pool when the micro-batch begins. */
  before: Record<Pool, Bytes>;
  events: Event[];
}

export interface TraceOptions {
  /** Whether the micro-batch ends its step, so the norm of the gradients and the update follow. */
  isLast: boolean;
  /** Whether each allocation gets the lines of source that asked for it. */
  stacks?: boolean;
}

/** Runs the micro-batch of a configuration in full, on meta. */
export function plannedTrace(
  configuration: Configuration,
  { isLast, stacks = false }: TraceOptions,
): StepTrace<StepEvent> {
  return planningFor(planTargetOf(configuration), () =>
    traced("meta", (take) => {
      using run = openOnMeta(configuration);
      const before = liveAfter(configuration, take().log);
      const collected = new StepEvents();
      using _ = stacks ? withStacks("meta", collected) : undefined;
      const end = (phase: string, part?: { done: number; total: number }): void => {
        collected.add(readAllocations("meta"));
        collected.passed(phase, part);
      };
      const { model, lora, optimizer, sum } = run;
      const {
        batch,
        policy,
        lora: { dropout },
      } = configuration;
      const normOf = isLast && !sum ? optimizer.parameters : undefined; // else it is of the sum
      const sharers = sharersOf(configuration);
      const options = { lossScale: 1, normOf, sharers, ...(dropout > 0 && { dropoutSeed: 1n }) };
      let phase = "vision";
      const steps = queueStep(model, lora, plannedBatch(batch), policy, options);
      let next = steps.next();
      for (; !next.done; next = steps.next()) {
        ({ phase } = next.value);
        end(phase, next.value);
      }
      end(phase);
      using queued = next.value;
      if (!isLast) return { before, events: collected.events };
      queued.read();
      sumOnMeta(sum, configuration);
      const norm = queued.norm ?? keep(normOfGradients(optimizer.parameters));
      scope(() => stepAdamW(optimizer, 1e-4, clippedScale(norm, 1, 1)));
      dispose(norm);
      end("update");
      return { before, events: collected.events };
    }),
  );
}

/** Sums up what is alive after a log: on a card also the workspaces of its libraries. */
function liveAfter(
  { target }: Pick<Configuration, "target">,
  log: Parameters<StepEvents["add"]>[0],
): Record<Pool, Bytes> {
  const zero = (): Bytes => Object.fromEntries(CATEGORIES.map((name) => [name, 0])) as Bytes;
  const live = { device: zero(), host: zero() };
  const made = new StepEvents();
  made.add(log);
  for (const { pool, category, bytes } of made.events) live[pool][category] += bytes;
  if (target !== "cpu") for (const bytes of target.workspaceBytes) live.device.workspace += bytes;
  return live;
}
