/** Memory of the run: over one step, at the peak of each step, and how much room is left. */
import { useMemo } from "preact/hooks";
import type { Headroom, MemoryProfile } from "../../../../src/server/ui/api.ts";
import { getJson } from "../../api.ts";
import { formatBytes, formatCount, formatRatio } from "../../lib/format.ts";
import { memoryCurves } from "../../lib/memoryCurves.ts";
import { CATEGORIES, CATEGORY_ORDER } from "../../lib/words.ts";
import { X_AXES, xAxisOf, xsOf } from "../../lib/xAxis.ts";
import type { RunHistory } from "../../live/runHistory.ts";
import { Chart } from "../../parts/chart/chart.tsx";
import type { ChartModel } from "../../parts/chart/model.ts";
import { useLoaded } from "../../parts/useLoaded.ts";
import { route } from "../../router.ts";
import { Frees } from "./frees.tsx";

export function Memory({ history }: { history: RunHistory }) {
  const { detail, summary, steps } = history;
  if (steps.step.length === 0 && !detail.plan) return null;
  return (
    <section class="stack" aria-label="Memory">
      <h2>Memory</h2>
      <div class="memory-grid">
        {detail.hasMemory && <OneStep history={history} />}
        <Peaks history={history} />
        <div class="panel">
          <h3>Room that is left</h3>
          {detail.headroom ? (
            <Room headroom={detail.headroom} />
          ) : (
            <p class="muted">The run has no memory limit.</p>
          )}
          <AtPeak history={history} />
          {detail.plan && <Frees history={history} />}
        </div>
      </div>
      {summary.stepDowns > 0 && <StepDowns history={history} />}
    </section>
  );
}

function limitLevels({ summary }: RunHistory): NonNullable<ChartModel["levels"]> {
  const { limitBytes } = summary;
  return limitBytes === undefined
    ? []
    : [{ at: limitBytes, label: `limit ${formatBytes(limitBytes)}`, tone: "bad" }];
}

/** Draws the memory over one step, with the plan's outline over it. */
function OneStep({ history }: { history: RunHistory }) {
  const { summary, turn } = history;
  const loaded = useLoaded(
    (signal) => getJson<MemoryProfile>(`runs/${summary.id}/memory`, {}, signal),
    [summary.id, turn],
  );
  const curves = useMemo(() => loaded.value && memoryCurves(loaded.value), [loaded.value]);
  if (!loaded.value || !curves || curves.xs.length === 0) return null;
  return (
    <div class="panel memory-step">
      <Chart
        title={`Over step ${formatCount(loaded.value.step)}`}
        x={curves.x}
        y={{ label: "memory", kind: "bytes", fromZero: true }}
        xs={curves.xs}
        series={curves.series}
        levels={limitLevels(history)}
        marks={curves.phases}
        rest={curves.peak}
        isStepped
        height={280}
      />
    </div>
  );
}

function Peaks({ history }: { history: RunHistory }) {
  const { steps, summary } = history;
  const axis = xAxisOf(route.value.query.get("x"));
  const xs = useMemo(() => xsOf(steps, axis, summary), [steps, axis, summary.tokens]);
  const planned = useMemo(
    () => steps.plannedPeakBytes.map((bytes) => bytes ?? summary.plannedPeakBytes ?? null),
    [steps, summary.plannedPeakBytes],
  );
  const hasHost = steps.hostPeakBytes.some((bytes) => (bytes ?? 0) > 0);
  const hasReserved = steps.reservedPeakBytes.some((bytes) => bytes !== null);
  if (steps.step.length === 0) return null;
  const shared = { x: X_AXES[axis], sync: "run", xs };
  return (
    <div class="stack">
      <div class="panel">
        <Chart
          title="Peak of each step"
          y={{ label: "memory", kind: "bytes", fromZero: true }}
          {...shared}
          series={[
            { label: "measured", values: steps.peakBytes, tone: "1" },
            { label: "planned", values: planned, tone: "text", draw: "outline" },
            ...(hasReserved
              ? [{ label: "held by the allocator", values: steps.reservedPeakBytes, tone: "5" as const }]
              : []),
          ]}
          levels={limitLevels(history)}
          height={230}
        />
      </div>
      {hasHost && (
        <div class="panel">
          <Chart
            title="Host memory"
            y={{ label: "memory", kind: "bytes", fromZero: true }}
            {...shared}
            series={[{ label: "peak of each step", values: steps.hostPeakBytes, tone: "3" }]}
            height={150}
          />
        </div>
      )}
    </div>
  );
}

function Room({ headroom: { limitBytes, spareBytes, largest } }: { headroom: Headroom }) {
  return (
    <>
      <p>
        <strong>{formatBytes(Math.max(0, spareBytes))}</strong> of {formatBytes(limitBytes)} are free at the
        peak
        {spareBytes < 0 && `; the plan needs ${formatBytes(-spareBytes)} more than there is`}.
      </p>
      {largest && (
        <p>
          Most is held by <strong>{CATEGORIES[largest.category]?.name ?? largest.category}</strong>,{" "}
          {formatBytes(largest.bytes)}.
        </p>
      )}
    </>
  );
}

/** Lists what the peak's bytes are for, at the step with the highest peak. */
function AtPeak({ history: { steps, detail } }: { history: RunHistory }) {
  const held = useMemo(() => {
    const peaks = steps.peakBytes.map((bytes) => bytes ?? 0);
    const at = peaks.indexOf(Math.max(...peaks));
    return CATEGORY_ORDER.map((category) => ({
      category,
      bytes: steps.peakByCategory[category]?.[at] ?? 0,
      planned: detail.plan?.step?.byCategory[category],
    })).filter(({ bytes, planned }) => bytes > 0 || (planned ?? 0) > 0);
  }, [steps, detail.plan]);
  const total = held.reduce((sum, { bytes }) => sum + bytes, 0);
  if (held.length === 0) return null;
  return (
    <table class="at-peak">
      <caption class="visually-hidden">What the memory at the peak was for</caption>
      <thead>
        <tr>
          <th scope="col">At the peak</th>
          <th scope="col" class="number">
            Measured
          </th>
          <th scope="col" class="number">
            Planned
          </th>
          <th scope="col" class="number">
            Share
          </th>
        </tr>
      </thead>
      <tbody>
        {held.map(({ category, bytes, planned }) => (
          <tr key={category}>
            <th scope="row">
              <span class={`swatch tone-${CATEGORIES[category].tone}`} aria-hidden="true" />
              {CATEGORIES[category].name}
            </th>
            <td class="number">{bytes > 0 ? formatBytes(bytes) : "–"}</td>
            <td class="number muted">{formatBytes(planned)}</td>
            <td class="number">{formatRatio(total > 0 ? bytes / total : undefined)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function StepDowns({ history: { events } }: { history: RunHistory }) {
  return (
    <div class="panel">
      <h3>Memory ran out</h3>
      <ul class="step-downs">
        {events.map((event) =>
          event.fact === "leaner" ? (
            <li key={event.atMs}>
              <span class="tone-bad" aria-hidden="true">
                ▼{" "}
              </span>
              step {formatCount(event.step)}: {event.text}
            </li>
          ) : null,
        )}
      </ul>
    </div>
  );
}
