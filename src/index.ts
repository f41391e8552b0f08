/**
 * lorafit as a library: train, evaluate, answer and merge from a program of your own. docs/api.md shows each of these at work.
 * This is the one file that passes on what others define.
 */

export { type PullOptions, pull } from "./checkpoint/hub.ts";
export { type MergeOptions, mergeCheckpoint } from "./checkpoint/merge.ts";
export { type Adapter, readAdapter } from "./checkpoint/peft.ts";
export { layoutBatch, type MicroBatch } from "./data/batches.ts";
export { type EncodedSample, encodePrompt } from "./data/dialogue.ts";
export { type HdGrid, type HdImage, hdGrid, imageSize, imageTokens, loadHdImage } from "./data/image.ts";
export { type ImagePool, openImagePool } from "./data/imagePool.ts";
export { type PagesOptions, writePages } from "./data/pages.ts";
export { type Dataset, readDataset, type Sample, type Turn } from "./data/samples.ts";
export { loadTokenizer, type Tokenizer } from "./data/tokenizer.ts";
export { type PreparedSample, type PrepareOptions, prepareSamples } from "./data/validate.ts";
export { formatBytes, parseBytes, UserError } from "./errors.ts";
export { type Generated, type GenerateOptions, generate } from "./models/generate.ts";
export { disposeLora, type Lora, loraFromAdapter } from "./models/lora.ts";
export { GREEDY, type Sampling } from "./models/sampling.ts";
export type { ModelConfig } from "./models/spec.ts";
export { disposeModel, type LoadOptions, loadModel, type Model } from "./models/weights.ts";
export { DEFAULT_POLICY, type Policy } from "./step/policy.ts";
export { type MemoryStats, memoryStats, OutOfMemoryError, setCap } from "./torch/device.ts";
export { dispose, scope, type Tensor } from "./torch/tensor.ts";
export {
  type Answer,
  type Evaluation,
  type Evaluator,
  evaluate,
  type SampleLoss,
  sampleAnswers,
  sampleLosses,
  totalLoss,
} from "./train/evaluate.ts";
export type { TrainInput, TrainOptions } from "./train/options.ts";
export { type EvalRecord, readRecords, type StepRecord } from "./train/runLog.ts";
export { type TrainEvent, type TrainHooks, type TrainResult, train } from "./train/trainer.ts";
