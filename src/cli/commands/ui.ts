/** `lorafit ui`: serves the page that shows runs, until it is stopped. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { realpathSync, statSync } from "node:fs";
import { faultOf, UserError } from "../../errors.ts";
import { isLoopbackHost } from "../../server/http/access.ts";
import { type RunningUi, startUi } from "../../server/ui/startUi.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { interruptible } from "../output/interruption.ts";
import type { Output } from "../output/output.ts";

/** Time for everything to end after a signal, before the process ends anyway. */
const MOST_CLOSE_MS = 3000;

export async function run(options: OptionsOf<"ui">, output: Output): Promise<void> {
  const { host, port } = options;
  const folder = realFolder(options.folder);
  const ui = await startUi({ folder, host, port, note: (text) => output.note(text) });
  await interruptible(
    output,
    "stopping",
    async ({ signal, listen }) => {
      listen();
      announce(ui, folder, options, output);
      if (!signal.aborted) await once(signal, "abort");
      setTimeout(() => process.exit(), MOST_CLOSE_MS).unref(); // whatever is still open
      await ui.close();
    },
    { saves: false },
  );
}

function announce(ui: RunningUi, folder: string, { host, open }: OptionsOf<"ui">, output: Output): void {
  const address = `${ui.url}/?token=${ui.token}`;
  output.record({ url: ui.url, token: ui.token });
  output.answer(`Runs below ${folder}:  ${address}`);
  if (!ui.hasPage) output.note("the page is not built, so only its API answers. Build it:  make build");
  if (!isLoopbackHost(host)) {
    output.note(
      `other machines can reach this server on ${host}. Whoever has the token can read and start runs, and nothing is encrypted. Safer: leave --host out, and use  ssh -L`,
    );
  }
  if (!output.json) output.note("Ctrl-C stops the page. Runs continue without it.");
  if (open) openBrowser(address, output);
}

/** Opens the address in the user's browser; if there is none, says so. */
function openBrowser(address: string, output: Output): void {
  const programs: Readonly<Record<string, string>> = { darwin: "open", win32: "explorer" };
  const browser = spawn(programs[process.platform] ?? "xdg-open", [address], {
    stdio: "ignore",
    detached: true,
  });
  browser.on("error", (cause) => output.note(`no browser could be opened (${faultOf(cause)})`));
  browser.unref();
}

function realFolder(folder: string): string {
  const fix = "Pass the folder that holds the output folders of your runs.";
  try {
    const real = realpathSync(folder);
    if (statSync(real).isDirectory()) return real;
  } catch (cause) {
    throw new UserError(`${folder} cannot be opened: ${faultOf(cause)}.`, { fix, cause });
  }
  throw new UserError(`${folder} is not a folder.`, { fix });
}
