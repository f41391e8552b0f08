/** A state as a word with a dot in its colour. */
import type { RunState, TrialState } from "../../../src/server/ui/api.ts";
import { RUN_STATES, TRIAL_STATES } from "../lib/words.ts";

export function RunStateBadge({ state }: { state: RunState }) {
  const { name, tone, meaning } = RUN_STATES[state];
  return (
    <span class="state" title={meaning}>
      <span class={`state-dot tone-${tone} ${state === "running" ? "is-live" : ""}`} aria-hidden="true" />
      {name}
    </span>
  );
}

export function TrialStateBadge({ state }: { state: TrialState }) {
  const { name, tone } = TRIAL_STATES[state];
  return (
    <span class="state">
      <span class={`state-dot tone-${tone} ${state === "running" ? "is-live" : ""}`} aria-hidden="true" />
      {name}
    </span>
  );
}
