/**
 * The address of a screen stands behind the "#": `#/run/some%2Fname?x=time`. So a deep link survives a
 * reload, and the server serves one page.
 */
import { signal } from "@preact/signals";

export interface Route {
  /** The screen's name; "" for the start. */
  screen: string;
  /** Decoded parts of the path behind the screen's name. */
  parts: string[];
  query: URLSearchParams;
}

export const route = signal(parseRoute(location.hash));

window.addEventListener("hashchange", () => {
  route.value = parseRoute(location.hash);
});

export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#?\/?/, "").split("?", 2);
  const [screen = "", ...parts] = path.split("/").map(decoded);
  return { screen, parts: parts.filter(Boolean), query: new URLSearchParams(query) };
}

/** Returns the link to a screen. Query values that are undefined or "" are left out. */
export function hrefOf(
  screen: string,
  parts: readonly string[] = [],
  query: Record<string, string | undefined> = {},
): string {
  const path = [screen, ...parts].map(encodeURIComponent).join("/");
  const search = new URLSearchParams(
    Object.entries(query).filter((pair): pair is [string, string] => Boolean(pair[1])),
  ).toString();
  return `#/${path}${search && `?${search}`}`;
}

export function navigate(href: string): void {
  location.hash = href;
}

/** Changes values of the query in place, without a new entry in the browser's history. */
export function setQuery(changes: Record<string, string | undefined>): void {
  const { screen, parts, query } = route.value;
  const href = hrefOf(screen, parts, { ...Object.fromEntries(query), ...changes });
  history.replaceState(history.state, "", href);
  route.value = parseRoute(href);
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
