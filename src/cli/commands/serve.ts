/** `lorafit serve`: loads a model with its adapters, and answers requests until it is stopped. */

import { once } from "node:events";
import { realpathSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { limitsAmong } from "../../data/pictures/limits.ts";
import { formatBytes, formatCount, plural, UsageError, UserError } from "../../errors.ts";
import { isLoopbackHost } from "../../server/http/access.ts";
import { openAiServer } from "../../server/openai/server.ts";
import { openEngine } from "../../serving/openEngine.ts";
import type { Engine } from "../../serving/types.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { interruptible } from "../output/interruption.ts";
import type { Output } from "../output/output.ts";

type ServeOptions = OptionsOf<"serve">;

/** Time for running answers to end after Ctrl-C or SIGTERM. */
const FINISH_MS = 3000;

export async function run(options: ServeOptions, output: Output): Promise<void> {
  const apiKey = options.api_key ?? process.env.LORAFIT_API_KEY;
  const isLoopback = isLoopbackHost(options.host);
  if (!isLoopback && !apiKey)
    throw new UsageError(`--host ${options.host} is open to other machines, and there is no key.`, {
      fix: "Pass --api-key KEY, or set LORAFIT_API_KEY.",
    });
  const adapters = namedAdapters(options);
  const pictures = { folder: realFolder(options.picture_folder), allowRemote: options.allow_remote_images };
  const adapterFolder = realFolder(options.adapter_folder);
  await interruptible(
    output,
    "finishing running answers",
    async ({ signal, listen }) => {
      const engine = await openEngine(engineOptions(options, adapters, output));
      listen();
      if (process.env.LORAFIT_STOP_WITH_STDIN) stopWithStdin();
      try {
        const server = await openAiServer({
          ...{ engine, pictures, adapterFolder, isLoopback, apiKey },
          ...{ maxTokens: options.max_new_tokens },
          ...{ host: options.host, port: options.port },
        });
        announce(server.url, engine, output);
        if (!signal.aborted) await once(signal, "abort");
        await Promise.all([closed(engine), server.close(FINISH_MS)]);
      } finally {
        await engine.close();
      }
    },
    { saves: false },
  );
}

/** Stops the server as SIGTERM does when the process that started it is gone. */
function stopWithStdin(): void {
  const stop = (): void => void process.kill(process.pid, "SIGTERM");
  process.stdin.on("end", stop).on("error", stop).resume().unref();
}

function engineOptions(options: ServeOptions, adapters: Record<string, string>, output: Output) {
  const { base_name, max_sequences, max_tokens, image_compat, min_pixels, ...compute } = options;
  return {
    ...compute,
    adapters,
    baseName: base_name,
    maxSequences: max_sequences,
    maxTokens: max_tokens,
    imageCompat: image_compat,
    pictures: { ...limitsAmong(options), min_pixels },
    onNotice: (text: string) => output.note(text),
  };
}

/** Lets running answers end, up to a time. */
async function closed(engine: Engine): Promise<void> {
  const late = setTimeout(() => void engine.close({ finish: false }), FINISH_MS);
  await engine.close({ finish: true });
  clearTimeout(late);
}

function announce(url: string, engine: Engine, output: Output): void {
  const names = engine.models().map(({ name }) => name);
  const { maxSequences, maxTokens, kvTokens, plannedPeakBytes } = engine.room();
  output.record({ url, models: names });
  output.answer(`serving ${names.join(", ")} at ${url}/v1`);
  output.note(
    `${plural(maxSequences, "answer")} at a time, ${formatCount(kvTokens)} tokens in all, at most ${formatCount(maxTokens)} in one; planned peak ${formatBytes(plannedPeakBytes)}`,
  );
  output.note("Ctrl-C stops it");
}

/** Reads NAME=FOLDER, or FOLDER named after itself. Throws UsageError for a name given twice. */
function namedAdapters({ adapter, base_name }: ServeOptions): Record<string, string> {
  const named = new Map<string, string>(); // a name may be that of a property, such as __proto__
  for (const given of adapter) {
    const [, name = basename(resolve(given)), folder = given] = /^([^=/\\]+)=(.+)$/.exec(given) ?? [];
    if (named.has(name) || name === base_name)
      throw new UsageError(`Two models would be called "${name}".`, {
        fix: `Give each adapter a name of its own: --adapter NAME=${folder}`,
      });
    named.set(name, folder);
  }
  return Object.fromEntries(named);
}

/** Returns the real path of a folder. Throws UserError if it is none. */
function realFolder(folder: string | undefined): string | undefined {
  if (folder === undefined) return undefined;
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new UserError(`${folder} is not a folder.`, { fix: "Name a folder that exists." });
  return realpathSync(folder);
}
