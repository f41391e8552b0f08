/** Which attention kernel a plan for a card counts with, and why. */
import { kernelsOf } from "../nn/attention/kernels.ts";
import type { SizedPlan } from "../plan/planner.ts";
import { inWords } from "../plan/time/attentionChoice.ts";
import { capabilityOf } from "../plan/time/cards.ts";
import type { Question } from "./question.ts";

export interface Kernel {
  name: string;
  /** timed: the fastest as a run here has measured; policy: fixed by the user; rule: usual for the card. */
  by: "timed" | "policy" | "rule";
  /** "flash 3.00 ms, efficient 2.00 ms". */
  timings?: string;
}

/** Throws for a CPU, which has no such choice. */
export function attentionOf({ card, planner, timed }: Question, { policy }: SizedPlan): Kernel {
  if (timed && policy.attention === timed.kernel)
    return { name: timed.kernel, by: "timed", timings: inWords(timed) };
  if (policy.attention !== "measured") return { name: policy.attention, by: "policy" };
  const [rule] = kernelsOf(capabilityOf(card!), planner.dtype);
  return { name: String(rule), by: "rule" };
}

const REASONS: Record<Kernel["by"], (kernel: Kernel) => string> = {
  timed: ({ timings }) => `the fastest as a run has timed them on this machine: ${timings}`,
  policy: () => "as the policy says",
  rule: () => "the usual one for this card; a run times all that the card has, and may use another",
};

/** "flash, the usual one for this card; ...". */
export function attentionWords(kernel: Kernel): string {
  return `${kernel.name}, ${REASONS[kernel.by](kernel)}`;
}
