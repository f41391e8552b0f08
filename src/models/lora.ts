/**
 * LoRA factors over the default targets, or any that a regular expression names; their gradients, and their
 * PEFT form.
 */

import {
  type AdapterKeys,
  findWeight,
  type ModulePrefix,
  peftName,
} from "../checkpoint/adapter/moduleNames.ts";
import { firstMatches } from "../checkpoint/adapter/patterns.ts";
import type { Adapter } from "../checkpoint/adapter/peft.ts";
import { quoted } from "../checkpoint/faults.ts";
import { UserError } from "../errors.ts";
import { mixSeed } from "../nn/dropout.ts";
import type { LoraBranch } from "../nn/linear.ts";
import { commandLine } from "../program.ts";
import { emptyOnHost, startCopy } from "../torch/copies.ts";
import { empty, zeros } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import type { Device, DType } from "../torch/dtypes.ts";
import { createGenerator } from "../torch/random.ts";
import { dispose, keep, scope, type Tensor } from "../torch/tensor.ts";
import { familyOf, linearNames, linearShape, tensorsOf } from "./families.ts";
import type { LinearName, ModelConfig } from "./family.ts";
import { shownTargets } from "./loraTargets.ts";

/** The two factors of a module: a, (R, in), and b, (out, R). */
export const FACTORS = ["a", "b"] as const;
export type Factor = (typeof FACTORS)[number];

/** Tensors of one shape. */
export interface LoraFactor {
  /** On the device, for the step: in float32, or in the computing dtype if there is a master. */
  value: Tensor;
  /** The factor in float32, in the host pool: the optimizer changes it and a checkpoint keeps it. */
  master?: Tensor;
  gradient?: Tensor;
}

export interface LoraModule extends Record<Factor, LoraFactor> {
  scale: number;
}

export interface Lora {
  rank: number;
  alpha: number;
  rslora: boolean;
  dropout: number;
  /** Layers of the model, and the names of a layer's linears; not all of them need have factors. */
  layers: number;
  linears: readonly LinearName[];
  /** How PEFT names its modules. */
  peft: { prefix: ModulePrefix; isSharedWithTower: boolean };
  /** By module: "layers.0.attention.wqkv". */
  modules: Map<string, LoraModule>;
}

/** The precision of the gradients that are held beside the factors, if any. */
export type Gradients = "fp32" | "bf16" | "none";

export interface LoraOptions {
  rank: number;
  /** Ranks of the modules whose rank differs, by module name. */
  ranks?: Readonly<Record<string, number>>;
  alpha: number;
  dropout: number;
  rslora: boolean;
  /**
   * A regular expression that a module's name, or PEFT's name for it, must match somewhere, such as
   * "attention\\.(wqkv|wo)$".
   */
  targets: string;
  seed: number;
  device: Device;
  gradients: Gradients;
  /** Where given, float32 factors lie in the host pool, and the device has copies of them in this dtype. */
  copies?: DType | undefined;
  /** Names of modules in files; default: the newest. */
  keys?: AdapterKeys | undefined;
}

/** New factors as PEFT makes them: A uniform in ±sqrt(1 / in) (Kaiming with a = sqrt 5), B zero. */
export function createLora(config: ModelConfig, options: LoraOptions): Lora {
  const { rank, ranks, alpha, dropout, rslora, device, gradients, copies, keys } = options;
  const names = modulesToTarget(config, options.targets);
  return category("loraParameters", () =>
    keep(
      scope(() => {
        const modules = names.map(({ name, linear }, index) => {
          const [rows, columns] = linearShape(config, linear);
          using generator = createGenerator(mixSeed(BigInt(options.seed), index), device);
          const bound = Math.sqrt(1 / columns);
          const newA = (): Tensor =>
            empty([ranks?.[name] ?? rank, columns], { device }).uniform_({
              from: -bound,
              to: bound,
              generator,
            });
          const newB = (): Tensor => zeros([rows, ranks?.[name] ?? rank], { device });
          const held = { copies, device, gradients };
          return [name, moduleOf({ a: newA, b: newB }, scaleOf(options), held)] as const;
        });
        return {
          rank,
          alpha,
          rslora,
          dropout,
          layers: config.layers,
          linears: linearNames(config),
          peft: peftOf(config, keys),
          modules: new Map(modules),
        };
      }),
    ),
  );
}

/** Factors read from a PEFT adapter. Throws UserError where the adapter does not fit the model. */
export function loraFromAdapter(
  config: ModelConfig,
  adapter: Adapter,
  {
    device,
    gradients,
    dropout,
    copies,
    keys,
  }: Pick<LoraOptions, "device" | "gradients" | "copies" | "keys"> & { dropout?: number },
): Lora {
  const { r: rank, loraAlpha: alpha, useRslora: rslora, loraDropout } = adapter.config;
  const known = linearNames(config);
  const modules = [...adapter.modules].map(([name, factors]) => {
    const linear = known.find((own) => name.endsWith(`.${own}`));
    const layer = layerOfModule(name);
    if (!linear || !(layer < config.layers)) throw noSuchLinear(config, name);
    checkFactors(config, name, linear, factors);
    const own = (x: Tensor) => (): Tensor => x.to({ dtype: "float32", device, copy: true });
    const moduleRank = factors.a.shape[0]!;
    return [
      name,
      linear,
      factors,
      own,
      factors.scale ?? scaleOf({ rank: moduleRank, alpha, rslora }),
    ] as const;
  });
  return category("loraParameters", () =>
    keep(
      scope(() => ({
        rank,
        alpha,
        rslora,
        dropout: dropout ?? loraDropout,
        layers: config.layers,
        linears: known,
        peft: peftOf(config, keys),
        modules: new Map(
          modules.map(([name, , { a, b }, own, scale]) => [
            name,
            moduleOf({ a: own(a), b: own(b) }, scale, { copies, device, gradients }),
          ]),
        ),
      })),
    ),
  );
}

/** The PEFT form of factors; its tensors are the factors' own. */
export function adapterFromLora(lora: Lora, baseModel: string): Adapter {
  return {
    config: {
      r: lora.rank,
      loraAlpha: lora.alpha,
      loraDropout: lora.dropout,
      useRslora: lora.rslora,
      targetModules: targetModulesOf(lora),
      baseModel,
    },
    prefix: lora.peft.prefix,
    modules: new Map(
      [...lora.modules].map(([name, { a, b, scale }]) => [name, { a: kept(a), b: kept(b), scale }]),
    ),
  };
}

/** Returns the tensor that the optimizer changes and a checkpoint keeps. */
function kept({ value, master }: LoraFactor): Tensor {
  return master ?? value;
}

/** Returns the layer of a module "layers.0.attention.wqkv", or of a factor of one; NaN for another name. */
export function layerOfModule(name: string): number {
  return Number(/^layers\.(\d+)\./.exec(name)?.[1]);
}

function peftOf(config: ModelConfig, keys: AdapterKeys = "newest"): Lora["peft"] {
  const { prefix, isSharedWithTower } = familyOf(config).peft;
  return { prefix: prefix[keys], isSharedWithTower };
}

/**
 * Returns the names of linears if every layer has them, or a pattern if the tower has such names too; else
 * whole names, since PEFT makes factors wherever a name matches.
 */
function targetModulesOf({ modules, layers, linears: known, peft }: Lora): string | string[] {
  const names = [...modules.keys()];
  const linears = known.filter((linear) => names.some((name) => name.endsWith(`.${linear}`)));
  if (names.length !== linears.length * layers) return names.map((name) => peftName(name, peft.prefix));
  if (!peft.isSharedWithTower) return linears;
  const escaped = (text: string): string => text.replaceAll(".", "\\.");
  return `${escaped(peft.prefix)}layers\\.\\d+\\.(${linears.map(escaped).join("|")})`;
}

/** Frees the factors and their gradients. */
export function disposeLora(lora: Lora): void {
  dispose(lora.modules);
}

/** Sets every gradient to zero. */
export function zeroGradients(lora: Lora): void {
  scope(() => {
    for (const { a, b } of lora.modules.values()) {
      a.gradient?.zero_();
      b.gradient?.zero_();
    }
  });
}

/**
 * Returns the LoRA branch of one linear of one layer: factors in the compute dtype, dropout seeded by layer
 * and module.
 */
export function loraBranch(
  lora: Lora | undefined,
  layer: number,
  linear: LinearName,
  { dtype, dropoutSeed }: { dtype: DType; dropoutSeed: bigint | undefined },
): LoraBranch | undefined {
  const module = lora?.modules.get(`layers.${layer}.${linear}`);
  if (!lora || !module) return undefined;
  const dropped = dropoutSeed !== undefined && lora.dropout > 0;
  return {
    a: module.a.value.to({ dtype }),
    b: module.b.value.to({ dtype }),
    gradA: module.a.gradient,
    gradB: module.b.gradient,
    scale: module.scale,
    dropout: dropped
      ? { probability: lora.dropout, seed: mixSeed(dropoutSeed, layer, lora.linears.indexOf(linear)) }
      : undefined,
  };
}

function scaleOf({ rank, alpha, rslora }: { rank: number; alpha: number; rslora: boolean }): number {
  return alpha / (rslora ? Math.sqrt(rank) : rank);
}

/** How factors are held: where, with or without copies and gradients. */
type Held = Pick<LoraOptions, "device" | "copies" | "gradients">;

/**
 * Makes a module of factors. Each is made in float32 on the device and moves to the host before the next is
 * made.
 */
function moduleOf(make: Record<Factor, () => Tensor>, scale: number, held: Held): LoraModule {
  const factors = { a: factorOf(make.a, held), b: factorOf(make.b, held) };
  if (held.gradients === "none") return { ...factors, scale };
  const dtype = held.gradients === "bf16" ? "bfloat16" : "float32";
  const withGradient = (factor: LoraFactor): LoraFactor => ({
    ...factor,
    gradient: factor.value.zerosLike({ dtype }),
  });
  return category("loraGradients", () => ({
    a: withGradient(factors.a),
    b: withGradient(factors.b),
    scale,
  }));
}

function factorOf(make: () => Tensor, { copies, device }: Held): LoraFactor {
  if (!copies) return { value: make() };
  return scope(() => {
    const factor = make();
    const master = emptyOnHost(factor.shape, { device });
    startCopy(master, factor).waitOnHost();
    return { value: factor.to({ dtype: copies, copy: true }), master };
  });
}

/** Tells a layer that the model has, but that gets no factors here, from one of another model. */
function noSuchLinear(config: ModelConfig, name: string): UserError {
  const tensors = tensorsOf(config);
  if (findWeight(name, (weight) => tensors.has(weight)) === undefined) {
    return new UserError(`The adapter has factors for ${quoted(name)}, which this model does not have.`, {
      fix: "Use the base model that the adapter was trained on.",
    });
  }
  return new UserError(
    `The adapter has factors for ${quoted(name)}. lorafit supports factors of the decoder's linear layers alone: ${linearNames(config).join(", ")}.`,
    { fix: `Merge the adapter into the model, and use the merged one:  ${commandLine("merge")}` },
  );
}

/** The last choice of modules: a plan makes factors for the same ones many times. */
let chosenBefore: { key: string; names: Set<string> } | undefined;

function modulesToTarget(config: ModelConfig, targets: string): { name: string; linear: LinearName }[] {
  const linears = linearNames(config);
  const all = Array.from({ length: config.layers }, (_, layer) =>
    linears.map((linear) => ({ name: `layers.${layer}.${linear}`, linear })),
  ).flat();
  const key = `${config.family} ${config.layers} ${targets}`;
  if (chosenBefore?.key !== key) {
    const { prefix } = peftOf(config);
    const names = all.flatMap(({ name }) => [name, peftName(name, prefix)]);
    const found = firstMatches([targets], names, { place: "lora_targets" });
    const chosen = all.filter(({ name }) => found.has(name) || found.has(peftName(name, prefix)));
    chosenBefore = { key, names: new Set(chosen.map(({ name }) => name)) };
  }
  const { names: matching } = chosenBefore;
  const chosen = all.filter(({ name }) => matching.has(name));
  if (chosen.length > 0) return chosen;
  throw new UserError(`No linear of the model matches lora_targets: ${shownTargets(targets)}.`, {
    fix: `Modules are named like layers.0.${linears[0]}; the linears are ${linears.join(", ")}.`,
  });
}

function checkFactors(
  config: ModelConfig,
  name: string,
  linear: LinearName,
  { a, b }: { a: Tensor; b: Tensor },
): void {
  const [rows, columns] = linearShape(config, linear);
  if (a.shape[1] === columns && b.shape[0] === rows && a.shape[0] === b.shape[1]) return;
  throw new UserError(
    `The adapter's ${name} has A [${a.shape}] and B [${b.shape}]; the model needs [R, ${columns}] and [${rows}, R].`,
    { fix: "Use the base model that the adapter was trained on." },
  );
}
