/** Commands to copy, checkpoints, and what happened in the run. */
import type { RunEvent } from "../../../../src/server/ui/api.ts";
import { formatAge, formatBytes, formatCount } from "../../lib/format.ts";
import { nowMs } from "../../live/clock.ts";
import type { RunHistory } from "../../live/runHistory.ts";
import { CopyBlock } from "../../parts/copy.tsx";

export function Commands({ history: { detail } }: { history: RunHistory }) {
  const { reproduce, resume, report, chat } = detail.commands;
  const commands: [title: string, command: string | undefined][] = [
    ["Continue it", resume],
    ["Train it again", reproduce],
    ["Talk with its adapter", chat],
    ["Write it as a page", report],
  ];
  return (
    <section class="panel stack" aria-labelledby="commands">
      <h2 id="commands">Commands</h2>
      {commands.map(
        ([title, command]) =>
          command && (
            <div key={title}>
              <h3 class="command-title">{title}</h3>
              <CopyBlock text={command} label={title} />
            </div>
          ),
      )}
    </section>
  );
}

export function Checkpoints({ history: { detail } }: { history: RunHistory }) {
  const { checkpoints, adapter, best } = detail;
  return (
    <section class="panel" aria-labelledby="checkpoints">
      <h2 id="checkpoints">Checkpoints</h2>
      {checkpoints.length === 0 ? (
        <p class="muted">None is written yet.</p>
      ) : (
        <table>
          <thead>
            <tr>
              <th scope="col">Checkpoint</th>
              <th scope="col" class="number">
                Step
              </th>
              <th scope="col" class="number">
                Size
              </th>
              <th scope="col" class="number">
                Written
              </th>
            </tr>
          </thead>
          <tbody>
            {checkpoints.toReversed().map(({ name, step, bytes, writtenAtMs }) => (
              <tr key={name}>
                <th scope="row" class="mono">
                  {name}
                </th>
                <td class="number">{formatCount(step)}</td>
                <td class="number">{formatBytes(bytes)}</td>
                <td class="number">{formatAge(nowMs.value - writtenAtMs)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <Adapter title="Finished adapter" path={adapter} />
      <Adapter title="Best adapter" path={best} />
    </section>
  );
}

function Adapter({ title, path }: { title: string; path: string | undefined }) {
  return path === undefined ? null : (
    <p class="adapter">
      {title}: <span class="mono">{path}</span>
    </p>
  );
}

const MOST_EVENTS = 40;

export function Events({ history: { events } }: { history: RunHistory }) {
  const shown = events
    .filter((event) => wordsOf(event) !== undefined)
    .slice(-MOST_EVENTS)
    .toReversed();
  if (shown.length === 0) return null;
  return (
    <section class="panel" aria-labelledby="events">
      <h2 id="events">What happened</h2>
      <ol class="events">
        {shown.map((event, index) => (
          <li key={shown.length - index}>
            <time class="muted number" dateTime={new Date(event.atMs).toISOString()}>
              {timeOf(event.atMs)}
            </time>
            <span>{wordsOf(event)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

function timeOf(atMs: number): string {
  const at = new Date(atMs);
  const two = (part: number): string => String(part).padStart(2, "0");
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** Returns an event as a sentence; undefined for those that other parts of the screen show. */
function wordsOf(event: RunEvent): string | undefined {
  switch (event.fact) {
    case "start":
      return event.step === 0
        ? `Started: ${formatCount(event.totalSteps)} steps over ${formatCount(event.samples)} samples.`
        : `Continued at step ${formatCount(event.step)}.`;
    case "notice":
      return event.text;
    case "leaner":
      return event.text;
    case "defect":
      return `Step ${formatCount(event.step)} took ${formatBytes(event.defect.measuredBytes)}, but ${formatBytes(event.defect.plannedBytes)} were planned.`;
    case "checkpoint":
      return `Saved checkpoint at step ${formatCount(event.step)}.`;
    case "end":
      return endWords(event);
    default:
      return undefined;
  }
}

function endWords(event: Extract<RunEvent, { fact: "end" }>): string {
  if (event.ended === "failed") return `Failed: ${event.message}`;
  if (event.ended === "finished" && event.message)
    return `Ended early at step ${formatCount(event.step)}: ${event.message}.`;
  if (event.ended === "finished") return `Finished at step ${formatCount(event.step)}.`;
  return `Stopped at step ${formatCount(event.step)}, with a checkpoint.`;
}
