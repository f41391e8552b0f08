/**
 * Serves the files of a built page. Their names are listed once, and a request can only name one of the list,
 * so no path of a request ever reaches the file system.
 */
import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { extname, join, sep } from "node:path";
import type { Hono } from "hono";

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".json": "application/json",
  ".webmanifest": "application/manifest+json",
  ".woff2": "font/woff2",
};

/** The page itself, which stands at "/". Its screens have addresses behind a "#". */
const PAGE = "/index.html";

/** Adds the routes of all files below the folder; false if it holds no page. */
export function serveAssets(app: Hono, folder: string): boolean {
  const paths = filesBelow(folder).filter((path) => extname(path) in TYPES);
  if (!paths.includes(PAGE)) return false;
  const answer = async (path: string): Promise<Response> => {
    const body = await readFile(join(folder, path));
    const isHashed = /\/assets\/.*-[\w-]{8,}\.\w+$/.test(path); // vite names such a file after its content
    return new Response(new Uint8Array(body), {
      headers: {
        "Content-Type": TYPES[extname(path)]!,
        "Cache-Control": isHashed ? "private, max-age=31536000, immutable" : "no-cache",
      },
    });
  };
  const known = new Set(paths);
  app.get("*", ({ req }, next) => {
    const path = req.path === "/" ? PAGE : req.path;
    return known.has(path) ? answer(path) : next();
  });
  return true;
}

function filesBelow(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(folder.length).replaceAll(sep, "/"));
  } catch {
    return []; // not built
  }
}
