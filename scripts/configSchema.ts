/**
 * Makes schemas/train.schema.json, the JSON Schema of a training configuration for editors, from the options.
 */
import { OFFICIAL_SPECS } from "../src/cli/args/officialFlags.ts";
import { jsonSchemaOf } from "../src/options.ts";
import { EXCLUSIVE_OPTIONS, TrainOptions } from "../src/train/options/options.ts";

type Json = Record<string, unknown>;

export function configSchema(): string {
  const { $schema, properties = {} } = jsonSchemaOf(TrainOptions);
  const aliases = Object.entries(properties).flatMap(([key, property]) =>
    (((property as Json).alias as string[] | undefined) ?? []).map((alias) => [
      alias,
      { description: `Another name of ${key}.` },
    ]),
  );
  const official = OFFICIAL_SPECS.map(({ key }) => [
    key,
    { description: "A name of the official finetune.py." },
  ]);
  const schema = {
    $schema,
    title: "lorafit train configuration",
    type: "object",
    additionalProperties: false,
    properties: Object.fromEntries([
      ...Object.entries(properties).map(([key, property]) => [key, forEditors(property as Json)]),
      ...aliases,
      ...official,
    ]),
    allOf: EXCLUSIVE_OPTIONS.map((pair) => ({ not: { required: pair } })),
  };
  return `${JSON.stringify(schema, undefined, 2)}\n`;
}

/**
 * Our own meta data gives way to the description that editors show, and no one set the limits of safe whole
 * numbers.
 */
function forEditors({ help, group, value, takes, advice, alias, ...schema }: Json): Json {
  const limits = Object.entries(schema).filter(
    ([, limit]) => Math.abs(Number(limit)) !== Number.MAX_SAFE_INTEGER,
  );
  return { description: help, ...Object.fromEntries(limits) };
}
