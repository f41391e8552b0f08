/** A run as a row of the table, or a card on a narrow screen. */
import type { RunSummary } from "../../../../src/server/ui/api.ts";
import { formatAge, formatBytes, formatCount, formatDuration, formatNumber } from "../../lib/format.ts";
import { settingText } from "../../lib/settings.ts";
import { nowMs } from "../../live/clock.ts";
import { Sparkline } from "../../parts/sparkline.tsx";
import { RunStateBadge } from "../../parts/stateBadge.tsx";
import { hrefOf, navigate } from "../../router.ts";

interface RunRowProps {
  run: RunSummary;
  /** Place among all runs that are shown. */
  index: number;
  settings: readonly string[];
  isActive: boolean;
  isChosen: boolean;
  onActive(): void;
  onChoose(isChosen: boolean): void;
}

export function RunRow({ run, index, settings, isActive, isChosen, onActive, onChoose }: RunRowProps) {
  const open = (event: MouseEvent): void => {
    if (event.target instanceof HTMLElement && event.target.closest("a, input, label")) return;
    if (getSelection()?.toString()) return; // text is being copied
    navigate(hrefOf("run", [run.id]));
  };
  return (
    <tr
      class={`run-row ${isActive ? "is-active" : ""} ${isChosen ? "is-chosen" : ""}`}
      aria-rowindex={index + 2}
      data-index={index}
      onClick={open}
    >
      <td class="col-choose">
        <input
          type="checkbox"
          aria-label={`Choose ${run.path}`}
          checked={isChosen}
          onChange={(event) => onChoose(event.currentTarget.checked)}
        />
      </td>
      <th scope="row" class="col-name">
        <a href={hrefOf("run", [run.id])} tabIndex={isActive ? 0 : -1} onFocus={onActive} title={run.path}>
          <RunPath path={run.path} />
        </a>
      </th>
      <td class="col-state">
        <RunStateBadge state={run.state} />
      </td>
      <td class="col-step number" title={leftOf(run)}>
        {formatCount(run.step)}
        {run.totalSteps !== undefined && <span class="muted"> / {formatCount(run.totalSteps)}</span>}
      </td>
      <td class="col-settings">
        <Settings run={run} names={settings} />
      </td>
      <td class="col-loss">
        <span class="loss-cell">
          <Sparkline values={run.lossSparkline} label="loss" />
          <span class="number">{formatNumber(run.lastLoss)}</span>
        </span>
      </td>
      <td class="col-best number" title={run.bestEval && `at step ${run.bestEval.step}`}>
        {formatNumber(run.bestEval?.loss)}
      </td>
      <td class="col-bytes col-planned number">{formatBytes(run.plannedPeakBytes)}</td>
      <td class="col-bytes col-peak number" title={limitOf(run)}>
        {formatBytes(run.peakBytes)}
        {run.stepDowns > 0 && (
          <span
            class="tone-warn"
            title={`memory ran out ${run.stepDowns} times, and the run continued in less`}
          >
            {" "}
            ▾{run.stepDowns}
          </span>
        )}
      </td>
      <td class="col-speed number">{formatCount(run.tokensPerSecond)}</td>
      <td class="col-age number muted">{formatAge(nowMs.value - run.updatedAtMs)}</td>
    </tr>
  );
}

/** Shows the folder before a run's name in a quieter colour. */
function RunPath({ path }: { path: string }) {
  const slash = path.lastIndexOf("/") + 1;
  return (
    <>
      <span class="muted">{path.slice(0, slash)}</span>
      {path.slice(slash)}
    </>
  );
}

function Settings({ run, names }: { run: RunSummary; names: readonly string[] }) {
  const known = names.filter((name) => run.options[name] !== undefined);
  const text = known.map((name) => `${name} ${settingText(run.options[name], name)}`).join("  ");
  return (
    <span class="settings" title={text}>
      {known.slice(0, 6).map((name) => (
        <span key={name} class="setting">
          <span class="muted">{name}</span> {settingText(run.options[name], name)}
        </span>
      ))}
    </span>
  );
}

function limitOf({ limitBytes }: RunSummary): string | undefined {
  return limitBytes === undefined ? undefined : `limit ${formatBytes(limitBytes)}`;
}

function leftOf({ leftMs }: RunSummary): string | undefined {
  return leftMs === undefined ? undefined : `${formatDuration(leftMs)} left`;
}
