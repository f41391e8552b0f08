/**
 * Names of a decoder's modules. Within lorafit a module is "layers.3.mlp.up_proj". PEFT saves the names that
 * a model has in memory, which depend on the model's class and on the version of transformers.
 */

/** The parts of PEFT's names before "layers.N": of models of several parts, newer and older, and others. */
export const PREFIXES = ["model.language_model.", "language_model.model.", "model."] as const;

/** Which names of modules an adapter has: as transformers has them now, or as it had them once. */
export const ADAPTER_KEYS = ["newest", "older"] as const;

export type AdapterKeys = (typeof ADAPTER_KEYS)[number];

export type ModulePrefix = (typeof PREFIXES)[number];

/** The prefix of a model whose modules are named like those of a text model. */
export const PLAIN_PREFIX: ModulePrefix = "model.";

/** Returns a module's name as PEFT knows it: "model.layers.0.attention.wqkv". */
export function peftName(module: string, prefix: ModulePrefix = PLAIN_PREFIX): string {
  return module.startsWith("layers.") ? `${prefix}${module}` : module;
}

/** Splits PEFT's name of a module into its prefix, if it is one of a decoder's layers, and lorafit's name. */
export function splitName(peft: string): { prefix?: ModulePrefix; module: string } {
  const prefix = PREFIXES.find((known) => peft.startsWith(`${known}layers.`));
  return prefix ? { prefix, module: peft.slice(prefix.length) } : { module: peft };
}

/** Returns the tensor that is a module's weight, whichever way the checkpoint names it. */
export function findWeight(module: string, has: (name: string) => boolean): string | undefined {
  const names = module.startsWith("layers.")
    ? PREFIXES.map((prefix) => `${prefix}${module}`)
    : [module, module.replace(/^model\./, ""), `model.${module}`];
  return names.map((name) => `${name}.weight`).find(has);
}
