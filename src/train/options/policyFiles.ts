/**
 * The policies of a run: one for each class of lengths, as the run writes them down and takes them back, or one for all; and single choices of
 * a user's that hold whatever the rest.
 */
import { z } from "zod";
import { readJsonObject } from "../../checkpoint/disk.ts";
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

/** Of micro-batches of so many tokens, and of more than the class before has. */
export interface ClassPolicy {
  upToTokens: number;
  policy: Policy;
}

/** What --policy takes: a policy for all lengths, or a run's policies by class. */
const ClassPolicies = z.strictObject({
  classes: z.array(z.strictObject({ upToTokens: z.int().positive(), policy: Policy })).min(1),
});

const spell = (key: string): string => `policy: ${key}`;

/** The policies that the options give in whole; undefined where they leave them to the plan. Throws UserError where one run can't have them all. */
export function givenPolicies({ policy }: Pick<TrainOptions, "policy">): ClassPolicy[] | undefined {
  if (policy === undefined) return undefined;
  return readPolicies(typeof policy === "string" ? policyJson(policy) : policy, spell);
}

/** From the JSON of a policy, or of a run's policies; from the shortest class to the longest. */
export function readPolicies(json: Record<string, unknown>, name: (key: string) => string): ClassPolicy[] {
  if (!("classes" in json)) return [ofAllLengths(parseOptions(Policy, json, name))];
  const { classes } = parseOptions(ClassPolicies, json, name);
  classes.sort((one, other) => one.upToTokens - other.upToTokens);
  refuseDifferentLoading(classes);
  return classes;
}

/** The same for micro-batches of any length. */
export function ofAllLengths(policy: Policy): ClassPolicy {
  return { upToTokens: Number.POSITIVE_INFINITY, policy };
}

/** Of a micro-batch of so many tokens: the longest class stands for all that are longer. */
export function policyOfClass(policies: readonly ClassPolicy[], tokens: number): Policy {
  return (policies.find(({ upToTokens }) => tokens <= upToTokens) ?? policies.at(-1)!).policy;
}

/** The file of a run's policies, as --policy takes it. */
export function policiesJson(policies: readonly ClassPolicy[]): string {
  const only = policies.length === 1 ? policies[0]!.policy : undefined;
  return `${JSON.stringify(only ?? { classes: policies }, undefined, 2)}\n`;
}

type PolicyParts = Pick<TrainOptions, PolicyOptionName>;

export function hasParts(options: PolicyParts): boolean {
  return POLICY_OPTION_NAMES.some((part) => options[part] !== undefined);
}

/** A policy with the choices that the options fix, and all else as it is. Throws UserError where a policy can't have them. */
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

/** A policy that is given as a file, or as JSON itself. */
function policyJson(given: string): Record<string, unknown> {
  if (!given.startsWith("{")) return readJsonObject(given);
  try {
    return JSON.parse(given);
  } catch (cause) {
    throw new UsageError(`The policy is not JSON: ${messageOf(cause)}.`, {
      fix: "Name the file of a policy, or copy its JSON whole, between single quotes.",
      cause,
    });
  }
}

/** A run's model is loaded once, and its optimizer made once. */
function refuseDifferentLoading(policies: readonly ClassPolicy[]): void {
  const loadings = policies.map(({ policy }) =>
    JSON.stringify([runPlaces(policy), ploraOf(policy).folded, policy.attention]),
  );
  const other = loadings.findIndex((loading) => loading !== loadings[0]);
  if (other < 0) return;
  const [one, two] = [policies[0]!, policies[other]!];
  throw new UserError(
    `The policies for up to ${one.upToTokens} and up to ${two.upToTokens} tokens can't be of one run: they want model or optimizer in other places or precisions.`,
    {
      fix: 'Give "weights", "embeddings", "head", "vision", "optimizer", "gradients", "attention" and folding of "plora" alike to all classes.',
    },
  );
}
