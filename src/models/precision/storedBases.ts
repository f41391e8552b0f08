/** The precisions that a checkpoint has its parts in, and whether it has what the model needs. */
import { checkTensors } from "../../checkpoint/check.ts";
import type { Checkpoint } from "../../checkpoint/checkpoint.ts";
import type { ModelFolder } from "../../checkpoint/folder.ts";
import { UserError } from "../../errors.ts";
import { storedPrecision, storedShapes } from "../../nn/frozen/storedNames.ts";
import type { TensorSpec } from "../family.ts";
import { type Base, type BasePart, type Bases, isHeadBase } from "./bases.ts";

type Tensors = ReadonlyMap<string, TensorSpec>;

/**
 * Returns the precisions of a checkpoint's parts, which they keep unless others are asked for. undefined: in
 * full.
 */
export function storedBases(tensors: Tensors, weights: Checkpoint): Bases {
  const [head] = [...tensors].find(([, { part }]) => part === "head") ?? [];
  const headBase = head && storedPrecision(head, weights);
  return {
    base: storedPrecisions("base", tensors, weights)[0],
    headBase: isHeadBase(headBase) ? headBase : undefined,
    visionBase: storedVision(tensors, weights),
  };
}

/**
 * Returns the precision of all linears of tower and projector. If they differ they are read in full, so that
 * layers are alike.
 */
function storedVision(tensors: Tensors, weights: Checkpoint): Base | undefined {
  const [first, ...others] = new Set(storedPrecisions("visionBase", tensors, weights));
  return others.length === 0 ? first : undefined;
}

function storedPrecisions(of: BasePart, tensors: Tensors, weights: Checkpoint): (Base | undefined)[] {
  return [...tensors]
    .filter(([, { precision }]) => precision === of)
    .map(([name]) => storedPrecision(name, weights));
}

/** Returns whether an NF4 checkpoint has its absmax in full, of which lorafit keeps 8 bits. */
export function hasFullAbsmax(weights: Checkpoint): boolean {
  return weights.names.some(
    (name) => storedPrecision(name, weights) === "nf4" && !weights.has(`${name}.nested_absmax`),
  );
}

/**
 * Compares a checkpoint's tensors with those of a model, as the checkpoint stores them. optional: names that
 * are neither needed nor refused. Throws UserError that lists all that is wrong.
 */
export function checkStoredTensors(
  { folder, config, weights }: ModelFolder,
  tensors: Tensors,
  optional: readonly string[],
): void {
  refuseOtherMethods(config, folder);
  const shapes = [...tensors].flatMap(([name, { shape }]) => storedShapes(name, shape, weights));
  checkTensors(weights, new Map(shapes), { optional });
}

/** Throws UserError for a checkpoint that another method has quantised. */
function refuseOtherMethods({ quantization_config: said }: Record<string, unknown>, folder: string): void {
  const method = typeof said === "object" && said !== null && "quant_method" in said && said.quant_method;
  if (typeof method !== "string" || method === "bitsandbytes" || method === "lorafit") return;
  throw new UserError(`${folder} is quantised by ${method}, which lorafit does not read.`, {
    fix: "Start from the unquantised checkpoint, with --base nf4 or int8 for fewer bits.",
  });
}
