/** The constants of AdamW. */

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
}

/** Values of the official recipe, which are the defaults of a run. */
export const OFFICIAL_ADAMW = {
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.1,
} as const satisfies AdamWOptions;
