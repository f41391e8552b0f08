/** What frees memory in this run's plan, one change at a time; planned when somebody asks. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { FreeingChange } from "../../../../src/answer/freeing.ts";
import type { RunDetail } from "../../../../src/server/ui/api.ts";
import type { PlanReply } from "../../../../src/server/ui/plan/planApi.ts";
import { ApiProblem, postLines } from "../../api.ts";
import { formatBytes } from "../../lib/format.ts";
import type { RunHistory } from "../../live/runHistory.ts";
import { Problem } from "../../parts/states.tsx";

const MOST_SHOWN = 6;

interface Asked {
  isBusy: boolean;
  changes?: FreeingChange[];
  problem?: unknown;
}

export function Frees({ history: { summary, detail } }: { history: RunHistory }) {
  const [{ isBusy, changes, problem }, setAsked] = useState<Asked>({ isBusy: false });
  const leaving = useRef(new AbortController());
  useEffect(() => () => leaving.current.abort(), []);
  const ask = async (): Promise<void> => {
    const question = {
      options: optionsOf(summary.options, detail),
      policy: detail.plan?.policies.at(-1)?.policy,
    };
    const { signal } = leaving.current;
    setAsked({ isBusy: true });
    const take = (reply: PlanReply): void => {
      if (reply.kind === "frees") setAsked({ isBusy: false, changes: reply.changes });
      if (reply.kind === "problem") setAsked({ isBusy: false, problem: problemOf(reply) });
    };
    await postLines("plan/frees", question, take, signal).catch((thrown: unknown) => {
      if (!signal.aborted) setAsked({ isBusy: false, problem: thrown });
    });
  };
  if (problem !== undefined) return <Problem of={problem} retry={ask} />;
  if (!changes)
    return (
      <button type="button" disabled={isBusy} onClick={ask}>
        {isBusy ? "Planning…" : "What frees most?"}
      </button>
    );
  if (changes.length === 0) return <p class="muted">No single change frees memory.</p>;
  return (
    <table class="at-peak">
      <caption>By plan, one change alone frees</caption>
      <tbody>
        {changes.slice(0, MOST_SHOWN).map(({ change, freedBytes, changesResults }) => (
          <tr key={change}>
            <th scope="row">
              {change}
              {!changesResults && <span class="muted"> (slower, same results)</span>}
            </th>
            <td>{formatBytes(freedBytes)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Returns the run's options, with its longest samples instead of the limit for them. */
function optionsOf(options: Record<string, unknown>, { plan }: RunDetail): Record<string, unknown> {
  if (!plan) return options;
  return { ...options, max_length: Math.ceil(plan.mostTokens / Number(options.batch_size ?? 1)) };
}

function problemOf({ error, fix }: { error: string; fix?: string }): ApiProblem {
  return new ApiProblem(error, { fix: fix === undefined ? [] : fix.split("\n"), status: 400 });
}
