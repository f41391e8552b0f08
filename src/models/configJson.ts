/** Values of config.json that model families share, from wherever transformers 4 and 5 write them. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { quoted } from "../checkpoint/faults.ts";
import { readJsonObject } from "../checkpoint/files/disk.ts";
import type { ModelFolder } from "../checkpoint/folder.ts";
import { plural, UserError } from "../errors.ts";
import type { RopeScaling } from "../nn/attention/rope.ts";
import type { ModelConfig } from "./family.ts";

/** Reads a JSON file; undefined if it is not there. Throws UserError if it does not fit the schema. */
export function readJson<S extends z.ZodType>(schema: S, file: string): z.output<S> | undefined {
  return existsSync(file) ? parseJson(schema, readJsonObject(file), file) : undefined;
}

/**
 * Returns the values of a folder's image processor, undefined without any, and the file they come from.
 * transformers 5 writes them into processor_config.json, where older versions have a file of their own.
 */
export function processorFile(folder: string): { file: string; json: unknown } {
  const [own, whole] = ["preprocessor_config.json", "processor_config.json"].map((name) =>
    join(folder, name),
  );
  if (existsSync(own!)) return { file: own!, json: readJsonObject(own!) };
  const json = existsSync(whole!) ? readJsonObject(whole!).image_processor : undefined;
  return { file: json ? whole! : own!, json: json ?? undefined };
}

/** Checks values from a file. Throws UserError that names the first that does not fit the schema. */
export function parseJson<S extends z.ZodType>(schema: S, json: unknown, file: string): z.output<S> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new UserError(`${file}: ${issue?.path.join(".")}: ${issue?.message}.`, {
    fix: "Check that the folder holds a whole checkpoint, and download the file again.",
  });
}

/** Gives a value its default if it is missing, or null, which is how transformers writes what is not set. */
export function orDefault<T>(schema: z.ZodType<T>, value: T): z.ZodType<T> {
  return z.union([
    schema,
    z
      .null()
      .optional()
      .transform(() => value),
  ]) as z.ZodType<T>;
}

type Json = Readonly<Record<string, unknown>>;

const positive = z.int().positive();

/** The values of a decoder in the layout of Llama. */
export const LlamaJson = z.object({
  hidden_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  num_key_value_heads: positive.nullish(),
  intermediate_size: positive,
  vocab_size: positive,
  rms_norm_eps: orDefault(z.number().positive(), 1e-6),
  bos_token_id: z.int().nullish(),
  hidden_act: orDefault(z.literal("silu"), "silu"),
  tie_word_embeddings: orDefault(z.boolean(), false),
});

/** Refuses heads that do not fit together, and pairs of dims without an axis. */
export function checkLlamaHeads(
  { hidden, heads, kvHeads, headDim, axisOfPair }: ModelConfig,
  file: string,
): void {
  const fix = { fix: "Check that the configuration belongs to this checkpoint." };
  if (!Number.isInteger(headDim / 2) || heads % kvHeads !== 0) {
    throw new UserError(
      `${file}: ${heads} heads of ${headDim} dims and ${kvHeads} kv heads do not fit hidden size ${hidden}.`,
      fix,
    );
  }
  if (axisOfPair && axisOfPair.length !== headDim / 2) {
    throw new UserError(
      `${file}: mrope_section has ${axisOfPair.length} pairs; a head of ${headDim} dims has ${headDim / 2}.`,
      fix,
    );
  }
}

/** The text model's values: models of several parts nest them in text_config. */
export function textValues(config: Json): Json {
  return { ...config, ...objectAt(config, "text_config") };
}

/** The family's fallbacks for what config.json may lack. */
interface RopeDefaults {
  ropeTheta: number;
  maxPositions: number;
}

/**
 * Base and scaling of rotary positions. transformers 5 writes both into rope_parameters, which wins;
 * transformers 4 writes rope_theta and rope_scaling. Throws UserError on a kind of scaling that lorafit does
 * not compute.
 */
export function ropeOf(
  values: Json,
  file: string,
  defaults: RopeDefaults,
): RopeDefaults & { ropeScaling?: RopeScaling } {
  const parts = { ...objectAt(values, "rope_scaling"), ...objectAt(values, "rope_parameters") };
  const { rope_theta = values.rope_theta, rope_type, type, ...rest } = dropNulls(parts);
  const maxPositions = numberOf(values.max_position_embeddings, { file, name: "max_position_embeddings" });
  const ropeTheta = numberOf(rope_theta, { file, name: "rope_theta" }) ?? defaults.ropeTheta;
  const { factor, ...others } = rest;
  const scaling = scalingOf(rope_type ?? type ?? "default", factor, file);
  const positions = maxPositions ?? defaults.maxPositions;
  for (const [name, value] of Object.entries(others)) {
    if (IDENTITY[name] === value || (name === "original_max_position_embeddings" && value === positions))
      continue;
    throw unknownScaling(file, `${name} ${quoted(String(value))}`);
  }
  return { ropeTheta, maxPositions: positions, ...(scaling && { ropeScaling: scaling }) };
}

const Sections = z.tuple([z.int().nonnegative(), z.int().nonnegative(), z.int().nonnegative()]);

/**
 * Returns base, positions, and the pairs of dims of each axis of positions in time, height and width. Their
 * kind is "mrope" or "default", which change nothing else. Throws UserError on scaled positions.
 */
export function mropeOf(
  values: Json,
  file: string,
  defaults: RopeDefaults,
): RopeDefaults & { sections: readonly number[]; isInterleaved: boolean } {
  const parts = { ...objectAt(values, "rope_scaling"), ...objectAt(values, "rope_parameters") };
  const { mrope_section, mrope_interleaved = false, rope_type, type, ...rest } = dropNulls(parts);
  const sections = Sections.safeParse(mrope_section);
  if (!sections.success) {
    throw new UserError(`${file}: mrope_section is not a list of three whole numbers.`, {
      fix: "Download the file again; it comes with the weights.",
    });
  }
  const kind = [rope_type, type].find((kind) => kind !== "mrope" && kind !== undefined) ?? "default";
  const plain = { ...values, rope_scaling: {}, rope_parameters: { ...rest, rope_type: kind } };
  const { ropeScaling, ...rope } = ropeOf(plain, file, defaults);
  if (ropeScaling) throw unknownScaling(file, `kind ${quoted(ropeScaling.kind)} beside mrope_section`);
  return { ...rope, sections: sections.data, isInterleaved: mrope_interleaved === true };
}

/** Further fields of a scaling at the values that change nothing. */
const IDENTITY: Json = { partial_rotary_factor: 1, attention_factor: 1 };

const factorSchema = z.number().min(1);

function scalingOf(kind: unknown, factor: unknown, file: string): RopeScaling | undefined {
  if (kind === "default") return undefined;
  if (kind !== "linear" && kind !== "dynamic") throw unknownScaling(file, `kind ${quoted(String(kind))}`);
  const parsed = factorSchema.safeParse(factor);
  if (parsed.success) return { kind, factor: parsed.data };
  throw new UserError(`${file}: rope_scaling of kind ${kind} needs a factor of at least 1.`, {
    fix: "Download the file again, or correct it.",
  });
}

function unknownScaling(file: string, what: string): UserError {
  return new UserError(`${file}: rope_scaling has ${what}, which lorafit does not compute.`, {
    fix: 'lorafit computes rotary positions of the kinds "default", "linear" and "dynamic".',
  });
}

/** Whether the embeddings are the head too. The value at the top wins: there transformers looks. */
export function tiedHeadOf({ tie_word_embeddings: atTop }: Json, inText: boolean): boolean {
  return typeof atTop === "boolean" ? atTop : inText;
}

/** Ids that end an answer: one, or a list, in config.json or else in generation_config.json. */
export function eosIdsOf(
  values: Json,
  generation: Json,
  file: string,
  defaults: readonly number[],
): readonly number[] {
  const stated = values.eos_token_id ?? generation.eos_token_id ?? undefined;
  const ids = z.union([z.int().transform((id) => [id]), z.array(z.int()).min(1)]).safeParse(stated);
  if (ids.success) return ids.data;
  if (stated === undefined) return defaults;
  throw new UserError(`${file}: eos_token_id is neither a number nor a list of numbers.`, {
    fix: "Download the file again, or correct it.",
  });
}

/**
 * Compares a number of layers that a configuration states with the names of the checkpoint's tensors, before
 * anything is made for each layer. `prefix` stands before a layer's number in the names.
 */
export function checkLayerCount(
  stated: number,
  prefix: string,
  { weights }: ModelFolder,
  file: string,
): void {
  const numbers = weights.names.flatMap((name) => {
    const [, number] = name.startsWith(prefix) ? (/^(\d{1,9})\./.exec(name.slice(prefix.length)) ?? []) : [];
    return number === undefined ? [] : Number(number);
  });
  const found = numbers.reduce((most, number) => Math.max(most, number + 1), 0);
  if (found === stated) return;
  throw new UserError(
    `${file} says ${plural(stated, "layer")}; the weights have ${plural(found, "layer")}.`,
    {
      fix: "Check that the configuration and the weights belong together, and that all shards are there.",
    },
  );
}

function numberOf(value: unknown, { file, name }: { file: string; name: string }): number | undefined {
  if (value === undefined || value === null) return undefined;
  const parsed = z.number().positive().safeParse(value);
  if (parsed.success) return parsed.data;
  throw new UserError(`${file}: ${name} is not a positive number.`, {
    fix: "Download the file again, or correct it.",
  });
}

function objectAt(config: Json, key: string): Json {
  const value = config[key];
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

function dropNulls(json: Json): Record<string, unknown> {
  return Object.fromEntries(Object.entries(json).filter(([, value]) => value !== null));
}
