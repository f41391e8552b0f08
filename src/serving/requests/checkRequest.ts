/** Checks the numbers of a request, whoever sends it. */
import { UserError } from "../../errors.ts";
import type { ServeRequest } from "../types.ts";

type Checked = "temperature" | "topP" | "repetitionPenalty" | "seed" | "maxNewTokens";

const CHECKS: Record<Checked, { holds: (value: number) => boolean; takes: string }> = {
  temperature: { holds: (value) => value >= 0 && Number.isFinite(value), takes: "0 or more" },
  topP: { holds: (value) => value > 0 && value <= 1, takes: "above 0 and at most 1" },
  repetitionPenalty: { holds: (value) => value > 0 && Number.isFinite(value), takes: "above 0" },
  seed: { holds: (value) => value >= 0 && Number.isSafeInteger(value), takes: "a whole number from 0 on" },
  maxNewTokens: {
    holds: (value) => value >= 1 && Number.isSafeInteger(value),
    takes: "a whole number from 1 on",
  },
};

/** Throws UserError for a number that makes no sense. */
export function checkRequest(request: ServeRequest): void {
  for (const [name, { holds, takes }] of Object.entries(CHECKS) as [Checked, (typeof CHECKS)[Checked]][]) {
    const value = request[name];
    if (value === undefined || holds(value)) continue;
    throw new UserError(`${name} is ${value}.`, { fix: `Send ${takes}.` });
  }
}
