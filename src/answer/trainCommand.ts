/** The `lorafit train` line that does what was planned. */
import { stringify } from "yaml";
import { limitOption } from "../data/pictures/limits.ts";
import { GIB, writtenBytes } from "../errors.ts";
import { pictureFormOf, publishedModel } from "../models/families.ts";
import { commandLine, quoted } from "../program.ts";
import { DEFAULT_RECIPE } from "../train/options/recipes.ts";
import type { Answer, Asked } from "./answer.ts";
import type { PlanSummary } from "./summary.ts";

/** Returns the `lorafit train` line that does what was planned. It spells out a fixed policy. */
export function trainCommand(answer: Pick<Answer, "asked" | "plan">): string {
  const { options } = answer.asked;
  const flags = Object.entries(trainOptionsOf(answer)).flatMap(([key, value]) => [
    `--${key.replaceAll("_", "-")}`,
    quoted(String(value)),
  ]);
  if (options.policy !== undefined || options.weights !== undefined)
    flags.push("--policy", `'${JSON.stringify(answer.plan.policy)}'`);
  return `${launcherOf(answer.asked)}${commandLine(`train ${flags.join(" ")}`)}`;
}

/** Returns what starts the ranks of several machines, to be typed on each; nothing for one machine. */
function launcherOf({ options }: Asked): string {
  const { nodes, gpus = 1, cpu_ranks } = options;
  if (nodes === 1) return "";
  const ranks = cpu_ranks ?? gpus;
  return `torchrun --no-python --nnodes ${nodes} --nproc-per-node ${ranks} --rdzv-backend c10d --rdzv-endpoint HOST:29500 `;
}

/** Returns the options of trainCommand as a configuration, with a fixed policy in it. */
export function trainYaml(answer: Pick<Answer, "asked" | "plan">): string {
  const { options } = answer.asked;
  const isFixed = options.policy !== undefined || options.weights !== undefined;
  return stringify({ ...trainOptionsOf(answer), ...(isFixed && { policy: answer.plan.policy }) });
}

export function trainOptionsOf({
  asked,
  plan,
}: Pick<Answer, "asked" | "plan">): Record<string, string | number> {
  const { options } = asked;
  const { workload } = plan;
  return {
    model: publishedModel(options.model)?.repository ?? options.model,
    data: "data.txt",
    ...(options.recipe !== DEFAULT_RECIPE && { recipe: options.recipe }),
    lora_r: workload.rank,
    ...limitOption(pictureFormOf(asked.model.config).limit, workload.pictureLimit),
    ...(options.min_pixels !== undefined && { min_pixels: options.min_pixels }),
    max_length: workload.maxLength,
    ...(workload.batchSize > 1 && { batch_size: workload.batchSize }),
    ...(options.gradient_accumulation !== undefined && {
      gradient_accumulation: options.gradient_accumulation,
    }),
    ...memoryOptions(asked, plan),
    ...(options.base !== undefined && { base: options.base }),
    ...(options.head_base !== undefined && { head_base: options.head_base }),
    ...(options.vision_base !== undefined && { vision_base: options.vision_base }),
    ...(options.device === "cpu" && { device: "cpu" }),
    ...ranksHere(options),
    ...(options.sequence_parallel > 1 && { sequence_parallel: options.sequence_parallel }),
  };
}

/** Returns the option that starts several ranks on one machine. */
function ranksHere({ nodes, gpus = 1, cpu_ranks = 1 }: Asked["options"]): Record<string, number> {
  if (nodes > 1) return {};
  return { ...(gpus > 1 && { gpus }), ...(cpu_ranks > 1 && { cpu_ranks }) };
}

/** A plan that uses less of the host than this fits any machine that the model's files fit. */
const ANY_HOST_BYTES = GIB;

/** Returns both limits to the byte, so that a run has the same plan. */
function memoryOptions({ limits, options }: Asked, plan: PlanSummary): Record<string, string> {
  const { deviceBytes, hostBytes, sumBytes } = limits;
  if (deviceBytes !== undefined && sumBytes !== undefined) {
    const { device, host } = partedSum(plan, sumBytes, options.cpu_ranks ?? 1);
    return { memory: amountOf(Math.min(deviceBytes, device)), host_memory: amountOf(host) };
  }
  const needsHost = options.host_memory !== undefined || plan.hostBytes > ANY_HOST_BYTES;
  return {
    ...(deviceBytes !== undefined && { memory: amountOf(deviceBytes) }),
    ...(hostBytes !== undefined && needsHost && { host_memory: amountOf(hostBytes) }),
  };
}

/**
 * Divides the memory that both pools of a CPU share: the host gets what the plan needs, the devices of all
 * ranks the rest in equal parts.
 * The amounts are as round as leave the device enough.
 */
function partedSum(
  { deviceBytes, hostBytes }: PlanSummary,
  sumBytes: number,
  ranks: number,
): Record<"device" | "host", number> {
  for (const unit of [GIB / 10, 2 ** 20, 2 ** 10]) {
    const host = Math.round(Math.ceil(hostBytes / unit) * unit);
    const device = Math.round(Math.floor((sumBytes - host) / ranks / unit) * unit);
    if (device >= deviceBytes) return { device, host };
  }
  return { device: Math.floor((sumBytes - hostBytes) / ranks), host: hostBytes };
}

/** An amount as an option takes it, to the byte: a plan may fill it. */
function amountOf(bytes: number): string {
  return bytes === 0 ? "0" : writtenBytes(bytes);
}
