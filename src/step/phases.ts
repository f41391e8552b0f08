/** How far a step has come: what its generator yields. */
export interface StepPhase {
  phase: "vision" | "forward" | "loss" | "backward";
  /** Parts of the phase that are done: batches of tiles, or layers. */
  done: number;
  total: number;
}
