/**
 * Makes schemas/train.schema.json, the JSON Schema of a training configuration for editors, from the options.
 */
import { jsonSchemaOf } from "../src/options.ts";
import { EXCLUSIVE_OPTIONS, TrainOptions } from "../src/train/options/options.ts";

type Json = Record<string, unknown>;

export function configSchema(): string {
  const { $schema, properties = {} } = jsonSchemaOf(TrainOptions);
  const schema = {
    $schema,
    title: "lorafit train configuration",
    type: "object",
    additionalProperties: false,
    properties: Object.fromEntries(
      Object.entries(properties).map(([key, property]) => [key, forEditors(property as Json)]),
    ),
    allOf: EXCLUSIVE_OPTIONS.map((pair) => ({ not: { required: pair } })),
  };
  return `${JSON.stringify(schema, undefined, 2)}\n`;
}

/** Replaces our metadata by the description that editors show, and drops the limits of safe integers. */
function forEditors({ help, group, value, takes, advice, alias, ...schema }: Json): Json {
  const limits = Object.entries(schema).filter(
    ([, limit]) => Math.abs(Number(limit)) !== Number.MAX_SAFE_INTEGER,
  );
  return { description: help, ...Object.fromEntries(limits) };
}
