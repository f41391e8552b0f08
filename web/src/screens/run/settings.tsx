/** The run's settings: those that differ from their defaults, and all. */
import { settingText } from "../../lib/settings.ts";
import type { RunHistory } from "../../live/runHistory.ts";

export function Settings({ history: { summary, detail } }: { history: RunHistory }) {
  const names = Object.keys(summary.options);
  if (names.length === 0) return null;
  const always = ["model", "data", "eval_data"].filter((name) => names.includes(name));
  const changed = [...always, ...detail.changedOptions.filter((name) => !always.includes(name))];
  return (
    <section class="panel" aria-labelledby="settings">
      <h2 id="settings">Settings that differ from the defaults</h2>
      <Table names={changed} options={summary.options} />
      <details class="all-settings">
        <summary>All settings</summary>
        <Table names={names} options={summary.options} />
      </details>
    </section>
  );
}

function Table({ names, options }: { names: readonly string[]; options: Record<string, unknown> }) {
  return (
    <dl class="settings-list">
      {names.map((name) => (
        <div key={name}>
          <dt class="mono">{name}</dt>
          <dd title={JSON.stringify(options[name])}>{settingText(options[name], name)}</dd>
        </div>
      ))}
    </dl>
  );
}
