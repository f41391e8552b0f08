/**
 * lorafit as a library: train, evaluate, answer and merge from a program of your own. docs/api.md shows each
 * of these at work. This is the one file that passes on what others define.
 */

export { type Adapter, readAdapter } from "./checkpoint/adapter/peft.ts";
export { type PullOptions, pull } from "./checkpoint/download/hub.ts";
export { type MergeOptions, mergeCheckpoint } from "./checkpoint/merge.ts";
export { imageSize } from "./data/pictures/decode.ts";
export type { LoadedPicture, PictureForm, PictureLayout } from "./data/pictures/form.ts";
export { type ImagePool, openImagePool } from "./data/pictures/imagePool.ts";
export { type EncodedSample, encodePrompt } from "./data/samples/dialogue.ts";
export type { Sample, Turn } from "./data/samples/sample.ts";
export { type Dataset, readDataset } from "./data/samples/samples.ts";
export { type PreparedSample, type PrepareOptions, prepareSamples } from "./data/samples/validate.ts";
export { layoutBatch, type MicroBatch } from "./data/stream/batches.ts";
export { loadTokenizer, type Tokenizer } from "./data/text/tokenizer.ts";
export { formatBytes, parseBytes, UserError } from "./errors.ts";
export { pictureFormOf, pictureRulesOf } from "./models/families.ts";
export type { ModelConfig } from "./models/family.ts";
export { type Generated, type GenerateOptions, generate } from "./models/generation/generate.ts";
export { GREEDY, type Sampling } from "./models/generation/sampling.ts";
export { disposeLora, type Lora, loraFromAdapter } from "./models/lora.ts";
export { disposeModel, type LoadOptions, loadModel, type Model } from "./models/weights.ts";
export { type PagesOptions, writePages } from "./pages/writePages.ts";
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
} from "./train/evaluate/evaluate.ts";
export type { RunFact, RunSink } from "./train/facts/runFact.ts";
export { type AnswerRecord, type EvalRecord, readRecords, type StepRecord } from "./train/folder/runLog.ts";
export { type TrainHooks, type TrainResult, train } from "./train/loop/trainer.ts";
export type { TrainInput, TrainOptions } from "./train/options/options.ts";
