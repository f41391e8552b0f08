/**
 * Reads and writes the policies of a run: one for each length class, or one for all. Also sets single choices
 * of a policy that the user has fixed.
 */
import { z } from "zod";
import { readJsonObject } from "../../checkpoint/files/disk.ts";
import { messageOf, UsageError, UserError } from "../../errors.ts";
import { parseOptions } from "../../options.ts";
import { runPlaces } from "../../plan/ladder.ts";
import {
  POLICY_OPTION_NAMES,
  POLICY_OPTIONS,
  Policy,
  type PolicyOptionName,
  ploraOf,
} from "../../step/policy.ts";
import type { TrainOptions } from "./options.ts";

/** The policy of one length class: up to so many tokens, and more than the class before. */
export interface ClassPolicy {
  upToTokens: number;
  policy: Policy;
}

/** The JSON of policies by length class; --policy also accepts a single policy. */
const ClassPolicies = z.strictObject({
  classes: z.array(z.strictObject({ upToTokens: z.int().positive(), policy: Policy })).min(1),
});

const spell = (key: string): string => `policy: ${key}`;

/**
 * Returns the policies that the options give; undefined if they are left to the plan. Throws UserError if one
 * run can't use them all.
 */
export function givenPolicies({ policy }: Pick<TrainOptions, "policy">): ClassPolicy[] | undefined {
  if (policy === undefined) return undefined;
  return readPolicies(typeof policy === "string" ? policyJson(policy) : policy, spell);
}

/**
 * Reads the JSON of a policy or of a run's policies, and returns them from the shortest class to the longest.
 */
export function readPolicies(json: Record<string, unknown>, name: (key: string) => string): ClassPolicy[] {
  if (!("classes" in json)) return [ofAllLengths(parseOptions(Policy, json, name))];
  const { classes } = parseOptions(ClassPolicies, json, name);
  classes.sort((one, other) => one.upToTokens - other.upToTokens);
  refuseDifferentLoading(classes);
  return classes;
}

/** Uses one policy for all lengths. */
export function ofAllLengths(policy: Policy): ClassPolicy {
  return { upToTokens: Number.POSITIVE_INFINITY, policy };
}

/** Finds the policy for so many tokens. The longest class also holds for everything longer. */
export function policyOfClass(policies: readonly ClassPolicy[], tokens: number): Policy {
  return (policies.find(({ upToTokens }) => tokens <= upToTokens) ?? policies.at(-1)!).policy;
}

/** Writes the file of a run's policies, as --policy accepts it. */
export function policiesJson(policies: readonly ClassPolicy[]): string {
  const only = policies.length === 1 ? policies[0]!.policy : undefined;
  return `${JSON.stringify(only ?? { classes: policies }, undefined, 2)}\n`;
}

type PolicyParts = Pick<TrainOptions, PolicyOptionName>;

export function hasParts(options: PolicyParts): boolean {
  return POLICY_OPTION_NAMES.some((part) => options[part] !== undefined);
}

/** Returns a policy with the choices that the options fix. Throws UserError if a policy can't have them. */
export function withParts(policy: Policy, options: PolicyParts): Policy {
  const ofPolicy: Record<string, unknown> = {};
  const ofLayers: Record<string, unknown> = {};
  for (const part of POLICY_OPTION_NAMES) {
    if (options[part] === undefined) continue;
    const option = POLICY_OPTIONS[part];
    if ("layer" in option) ofLayers[option.layer] = options[part];
    else ofPolicy[option.policy] = options[part];
  }
  const runs = policy.layers.length > 0 ? policy.layers : [{ count: 1 }];
  const layers = runs.map((run) => ({ ...run, ...ofLayers }));
  return parseOptions(Policy, { ...policy, ...ofPolicy, layers }, spell);
}

/** Reads a policy that is given as a file, or as JSON itself. */
function policyJson(given: string): Record<string, unknown> {
  if (!given.startsWith("{")) return readJsonObject(given);
  try {
    return JSON.parse(given);
  } catch (cause) {
    throw new UsageError(`The policy is not JSON: ${messageOf(cause)}.`, {
      fix: "Pass the file of a policy, or its whole JSON between single quotes.",
      cause,
    });
  }
}

/**
 * Throws UserError if policies differ in how the model is loaded or the optimizer made, which happens once in
 * a run.
 */
function refuseDifferentLoading(policies: readonly ClassPolicy[]): void {
  const loadings = policies.map(({ policy }) =>
    JSON.stringify([runPlaces(policy), ploraOf(policy).folded, policy.attention]),
  );
  const other = loadings.findIndex((loading) => loading !== loadings[0]);
  if (other < 0) return;
  const [one, two] = [policies[0]!, policies[other]!];
  throw new UserError(
    `The policies for up to ${one.upToTokens} and up to ${two.upToTokens} tokens do not belong to one run: they put the model or the optimizer in different places or precisions.`,
    {
      fix: 'Give "weights", "embeddings", "head", "vision", "optimizer", "gradients", "attention" and folding of "plora" alike to all classes.',
    },
  );
}
