/** Names of the parts of a plan's memory. */

/** Parts of the budgeted bytes by the names that people read. */
export const PART_TITLES: Record<string, string> = {
  weights: "frozen model",
  loraParameters: "LoRA factors",
  loraGradients: "LoRA gradients",
  optimizerState: "optimizer state",
  inputData: "input data",
  visionFeatures: "vision",
  boundaryActivations: "saved activations",
  workingSet: "the layer being computed",
  loss: "loss",
  workspace: "workspaces",
  context: "CUDA context",
  allocator: "rounding",
};
