/** The run at a glance: its state, how far it has come, its most important numbers, and a button that stops it. */
import { useState } from "preact/hooks";
import type { StopAnswer } from "../../../../src/server/ui/api.ts";
import { postJson } from "../../api.ts";
import { formatBytes, formatCount, formatDuration, formatNumber } from "../../lib/format.ts";
import type { RunHistory } from "../../live/runHistory.ts";
import { RunStateBadge } from "../../parts/stateBadge.tsx";
import { Problem } from "../../parts/states.tsx";
import { hrefOf } from "../../router.ts";

export function Head({ history }: { history: RunHistory }) {
  const { summary, detail } = history;
  return (
    <header class="run-head">
      <div class="screen-head">
        <h1>{summary.path === "." ? summary.name : summary.path}</h1>
        <RunStateBadge state={summary.state} />
        {summary.sweep && (
          <a href={hrefOf("compare", [], { sweep: summary.sweep.id })}>
            trial {summary.sweep.trial} of a sweep
          </a>
        )}
        <span class="run-stop">
          <Stop history={history} />
        </span>
      </div>
      <Progress history={history} />
      {summary.error && <Problem of={summary.error} />}
      <p class="muted mono run-folder">{detail.folder}</p>
      <Numbers history={history} />
    </header>
  );
}

function Progress({ history: { summary } }: { history: RunHistory }) {
  const { step, totalSteps, state, leftMs } = summary;
  if (totalSteps === undefined) return null;
  const left = state === "running" && leftMs !== undefined ? `, ${formatDuration(leftMs)} left` : "";
  const words = `step ${formatCount(step)} of ${formatCount(totalSteps)}${left}`;
  return (
    <div class="row">
      {state !== "finished" && (
        <progress class="run-progress" max={totalSteps} value={step} aria-label={words} />
      )}
      <span>{words}</span>
    </div>
  );
}

function Numbers({ history: { summary } }: { history: RunHistory }) {
  const { bestEval, lastEval } = summary;
  const facts: [name: string, value: string, more?: string | undefined][] = [
    ["Loss", formatNumber(summary.lastLoss)],
    ["Best evaluation", formatNumber(bestEval?.loss), bestEval && `at step ${formatCount(bestEval.step)}`],
    ["Last evaluation", formatNumber(lastEval?.loss), lastEval && `at step ${formatCount(lastEval.step)}`],
    ["Peak memory", formatBytes(summary.peakBytes), `planned ${formatBytes(summary.plannedPeakBytes)}`],
    ["Memory limit", summary.limitBytes === undefined ? "none" : formatBytes(summary.limitBytes)],
    ["Speed", `${formatCount(summary.tokensPerSecond)} tok/s`],
    ["Trained", formatDuration(summary.elapsedMs), `${formatCount(summary.tokens)} tokens`],
    ["Memory step-downs", formatCount(summary.stepDowns)],
  ];
  return (
    <dl class="facts">
      {facts.map(([name, value, more]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            {value}
            {more && <span class="facts-more">{more}</span>}
          </dd>
        </div>
      ))}
    </dl>
  );
}

type Stopping = { at: "idle" | "asking" | "sending" | "stopping" } | { at: "failed"; problem: unknown };

/** Asks once more, then stops the run as Ctrl-C does. Only a process on the server's machine can be stopped. */
function Stop({ history: { summary, detail } }: { history: RunHistory }) {
  const [stopping, setStopping] = useState<Stopping>({ at: "idle" });
  if (summary.state !== "running") return null;
  if (detail.process && !detail.process.isHere)
    return <span class="muted">It runs on {detail.process.host}; stop it there.</span>;
  const send = async (): Promise<void> => {
    setStopping({ at: "sending" });
    try {
      const { stopping: isSent } = await postJson<StopAnswer>(`runs/${summary.id}/stop`);
      setStopping({ at: isSent ? "stopping" : "idle" });
    } catch (problem) {
      setStopping({ at: "failed", problem });
    }
  };
  if (stopping.at === "idle")
    return (
      <button type="button" onClick={() => setStopping({ at: "asking" })}>
        Stop…
      </button>
    );
  if (stopping.at === "asking")
    return (
      <fieldset class="row run-confirm">
        <legend class="visually-hidden">Stop this run?</legend>
        <span>It saves a checkpoint after its micro-batch, and can continue later.</span>
        <button type="button" class="danger" onClick={send} ref={(button) => button?.focus()}>
          Save and stop
        </button>
        <button type="button" onClick={() => setStopping({ at: "idle" })}>
          Keep running
        </button>
      </fieldset>
    );
  if (stopping.at === "failed")
    return <Problem of={stopping.problem} retry={() => setStopping({ at: "idle" })} />;
  return <span role="status">Stopping: it saves a checkpoint after its micro-batch…</span>;
}
