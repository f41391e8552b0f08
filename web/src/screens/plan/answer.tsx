/** The planner's answer: whether it fits, the bar beside the limit and the official recipe, and commands. */
import type { PlanView } from "../../../../src/server/ui/plan/planApi.ts";
import { formatBytes, formatCount, formatDuration } from "../../lib/format.ts";
import { CopyBlock } from "../../parts/copy.tsx";
import { type Bar, MemoryBars } from "../../parts/memoryBar.tsx";
import { Loading, Problem } from "../../parts/states.tsx";
import type { Planned } from "./usePlan.ts";

export function PlanAnswer({ planned, withCommands = true }: { planned: Planned; withCommands?: boolean }) {
  const { plan, official, problem, isStale } = planned;
  if (problem) return <Problem of={problem} />;
  if (!plan) return <Loading what="the plan" />;
  const bars: Bar[] = [
    { name: "lorafit", parts: plan.parts, bytes: plan.deviceBytes },
    ...(official ? [{ name: "official recipe", parts: official.parts, bytes: official.deviceBytes }] : []),
  ];
  return (
    <div class="stack">
      <section class={`panel plan-answer ${isStale ? "plan-stale" : ""}`} aria-busy={isStale}>
        <Verdict planned={planned} plan={plan} />
        <MemoryBars bars={bars} {...(plan.limitBytes !== undefined && { limitBytes: plan.limitBytes })} />
        <PlanFacts plan={plan} />
      </section>
      <Ways planned={planned} />
      {withCommands && (
        <section class="panel stack">
          <h2>Train with it</h2>
          <CopyBlock text={plan.command} label="Command" />
          <CopyBlock text={plan.yaml.trimEnd()} label="Configuration, for --config" />
        </section>
      )}
    </div>
  );
}

function Verdict({ planned, plan }: { planned: Planned; plan: PlanView }) {
  const { headline, note, tone } = verdictOf(planned, plan);
  return (
    <div class="plan-verdict" role="status">
      <h2 class={`tone-${tone}`}>{headline}</h2>
      <p class="muted">{note}</p>
    </div>
  );
}

function verdictOf(
  { stage, isStale }: Planned,
  plan: PlanView,
): { headline: string; note: string; tone: "good" | "bad" | "text" } {
  const { fits, deviceBytes, limitBytes, device } = plan;
  const room = limitBytes === undefined ? device : `${formatBytes(limitBytes)} of ${device}`;
  if (fits) {
    const headline = `Fits ${room}: ${formatBytes(deviceBytes)}`;
    if (isStale) return { headline, note: "Planning again…", tone: "text" };
    return { headline, note: STAGE_NOTES[stage ?? "fastest"], tone: "good" };
  }
  if (isStale || stage !== "fastest")
    return { headline: "Looking for a policy that fits…", note: `Not yet within ${room}.`, tone: "text" };
  return {
    headline: `Does not fit ${room}: needs at least ${formatBytes(deviceBytes)}`,
    note: isShortOfHost(plan)
      ? `It also needs ${formatBytes(plan.hostBytes)} of host memory; ${formatBytes(plan.hostLimitBytes)} are assumed.`
      : "Shown is the policy that needs the least memory.",
    tone: "bad",
  };
}

const STAGE_NOTES = {
  kept: "Shown is the policy from before at these sizes; looking for the fastest…",
  leanest: "Shown is the policy that needs the least memory; looking for the fastest…",
  fastest: "Shown is the fastest policy that fits.",
} as const;

function isShortOfHost({ hostBytes, hostLimitBytes }: PlanView): boolean {
  return hostLimitBytes !== undefined && hostBytes > hostLimitBytes;
}

function PlanFacts({ plan }: { plan: PlanView }) {
  const { workload, measures, stepMs, hostBytes, tokens } = plan;
  const { accumulation = 1, batchSize } = workload;
  return (
    <>
      <dl class="facts">
        <div>
          <dt>Time of a step</dt>
          <dd>
            {stepMs === undefined ? "unknown: this CPU was never timed" : `about ${formatDuration(stepMs)}`}
          </dd>
        </div>
        <div>
          <dt>Samples in a step</dt>
          <dd>{formatCount(batchSize * accumulation)}</dd>
        </div>
        <div>
          <dt>Tokens in a micro-batch</dt>
          <dd>{formatCount(tokens)}</dd>
        </div>
        <div>
          <dt>Host memory</dt>
          <dd>{formatBytes(hostBytes)}</dd>
        </div>
      </dl>
      {measures.length > 0 && (
        <p>
          <span class="muted">Policy: </span>
          {measures.join("; ")}
        </p>
      )}
    </>
  );
}

function Ways({ planned: { ways, plan, stage, isStale, isBusy } }: { planned: Planned }) {
  if (isStale || plan?.fits || stage !== "fastest") return null;
  if (!ways) return isBusy ? <Loading what="what would fit" /> : null;
  return (
    <section class="panel">
      <h2>What would fit</h2>
      {ways.length === 0 ? (
        <p>No single change fits.</p>
      ) : (
        <ul class="plan-ways">
          {ways.map(({ option, most, deviceBytes, remark }) => (
            <li key={option}>
              <code>
                {option}
                {most && ` ${most.value}`}
              </code>{" "}
              {most && "at most, "}
              {formatBytes(deviceBytes)}
              {remark && <span class="muted"> ({remark})</span>}
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
