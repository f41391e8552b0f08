// Lets Node run the TypeScript sources: node --import ./typescript.mjs file.ts. vite brings the compiler.
import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { fileURLToPath } from "node:url";
import { isMainThread } from "node:worker_threads";

if (isMainThread) register(import.meta.url);

/** Module that the compiler's output imports for `using`, which Node 20 does not know. */
const USING = "@oxc-project/runtime/helpers/usingCtx";
const USING_SOURCE = `
export default function usingContext() {
  const held = [];
  const add = (isAsync) => (value) => {
    if (value === null || value === undefined) return value;
    const dispose = (isAsync && value[Symbol.asyncDispose]) || value[Symbol.dispose];
    if (typeof dispose !== "function") throw new TypeError("not disposable");
    held.push({ dispose: () => dispose.call(value), isAsync });
    return value;
  };
  const none = {};
  return {
    e: none,
    u: add(false),
    a: add(true),
    d() {
      let error = this.e;
      const fail = (next) => { error = error === none ? next : Object.assign(new Error("suppressed"), { error: next, suppressed: error }); };
      const next = () => {
        while (held.length > 0) {
          const { dispose, isAsync } = held.pop();
          try {
            const done = dispose();
            if (isAsync) return Promise.resolve(done).catch(fail).then(next);
          } catch (thrown) { fail(thrown); }
        }
        if (error !== none) throw error;
      };
      return next();
    },
  };
}`;

export function resolve(specifier, context, next) {
  if (specifier === USING)
    return { url: `data:text/javascript,${encodeURIComponent(USING_SOURCE)}`, shortCircuit: true };
  return next(specifier, context);
}

export async function load(url, context, next) {
  if (!url.endsWith(".ts")) return next(url, context);
  const { transform } = await import("rolldown/utils");
  const path = fileURLToPath(url);
  const { code, errors } = await transform(path, await readFile(path, "utf8"), {
    lang: "ts",
    target: "es2023",
  });
  if (errors.length > 0) throw new Error(errors.map(({ message }) => message).join("\n"));
  return { format: "module", source: code, shortCircuit: true };
}
