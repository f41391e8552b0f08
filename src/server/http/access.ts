/**
 * Decides which requests a local server answers. A web page that the user has open elsewhere can send
 * requests to 127.0.0.1 too, so the server checks three things: the Host header, against DNS rebinding; the
 * page that a request comes from, against forged requests; and a token that only the user's terminal has
 * shown.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import type { Context, MiddlewareHandler } from "hono";
import { getCookie, setCookie } from "hono/cookie";
import { HttpError } from "./httpError.ts";

export interface Access {
  /** Token of the requests; undefined: requests need none. */
  token: string | undefined;
  /** Whether only this machine reaches the server. */
  isLoopback: boolean;
  /** Further names of the server that a Host header may have, in lower case. */
  hosts: readonly string[];
  /**
   * Name of the cookie that carries the token. Browsers share cookies between the ports of a machine, so it
   * names the port. Undefined: the server is for programs, and sets no cookie.
   */
  cookie: string | undefined;
  /** Fix of the answer to a request without a token. */
  askForToken: string;
}

/** Returns a token that nobody guesses: 256 random bits, as letters, digits, `-` and `_`. */
export function newToken(): string {
  return randomBytes(32).toString("base64url");
}

/** Returns whether a host to listen on is reached from this machine alone. */
export function isLoopbackHost(host: string): boolean {
  const name = bare(host);
  return name === "localhost" || name === "::1" || (isIP(name) === 4 && name.startsWith("127."));
}

/** Lets through requests that name this server, come from its own page, and carry the token. */
export function guard(access: () => Access): MiddlewareHandler {
  return async (context, next) => {
    const known = access();
    checkHost(context, known);
    checkOrigin(context);
    if (known.token === undefined) return next();
    const shown = context.req.query("token");
    if (shown !== undefined && known.cookie !== undefined && context.req.method === "GET")
      return takenToken(context, known as Access & { token: string; cookie: string }, shown);
    if (!carriesToken(context, known as Access & { token: string }))
      throw new HttpError(401, "This request has no valid token.", { fix: known.askForToken });
    return next();
  };
}

/**
 * Throws unless the Host header has a name of this server. Other ports are accepted, because `ssh -L` gives
 * the server a port of its own. A page of a rebound DNS name sends that name, never an address.
 */
function checkHost({ req }: Context, { isLoopback, hosts }: Access): void {
  const host = req.header("host") ?? "";
  const name = /^(\[[\da-f:.]+\]|[\w.-]+)(?::\d{1,5})?$/i.exec(host)?.[1]?.toLowerCase() ?? "";
  if (isLoopbackHost(name) || hosts.includes(name)) return;
  if (!isLoopback && isIP(bare(name)) !== 0) return;
  throw new HttpError(403, `This server has no name "${host}".`, {
    fix: "Open it by the address that its terminal shows.",
  });
}

/** Throws for requests that another site's page has sent, except for a visit to this server's page. */
function checkOrigin({ req }: Context): void {
  const origin = req.header("origin");
  const isOwn = origin !== undefined && hostOf(origin) === req.header("host")?.toLowerCase();
  if (origin !== undefined && !isOwn) throw foreign(origin);
  const site = req.header("sec-fetch-site");
  if (site === undefined || site === "same-origin" || site === "none") return;
  const isVisit = req.method === "GET" && req.header("sec-fetch-mode") === "navigate";
  if (!isVisit || req.path.startsWith("/api/") || req.path.startsWith("/v1/")) throw foreign(site);
}

function foreign(origin: string): HttpError {
  return new HttpError(403, `Requests of another site (${origin}) are not answered.`, {
    fix: "Open the page by the address that its terminal shows.",
  });
}

function hostOf(origin: string): string | undefined {
  try {
    return new URL(origin).host;
  } catch {
    return undefined; // such as "null", of a page in a sandbox
  }
}

/**
 * Exchanges the token of an address for a cookie, and leads on to the address without it. Not by a redirect:
 * after a link on another site, browsers withhold a SameSite=Strict cookie for the whole chain of redirects.
 */
function takenToken(
  context: Context,
  { token, cookie }: Access & { token: string; cookie: string },
  shown: string,
) {
  if (!isSame(shown, token))
    throw new HttpError(401, "This token is not valid any more.", {
      fix: "Each start of the server has a token of its own: open the address that its terminal shows now.",
    });
  setCookie(context, cookie, token, { httpOnly: true, sameSite: "Strict", path: "/" });
  const { pathname } = new URL(context.req.url);
  const way = /^[\w/.-]+$/.test(pathname) && !pathname.startsWith("//") ? pathname : "/";
  return context.html(
    `<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url=${way}"><title>lorafit</title></html>`,
  );
}

function carriesToken(context: Context, { token, cookie }: Access & { token: string }): boolean {
  const bearer = /^Bearer +(\S+)$/i.exec(context.req.header("authorization") ?? "")?.[1];
  if (bearer !== undefined) return isSame(bearer, token);
  const held = cookie === undefined ? undefined : getCookie(context, cookie);
  if (held === undefined || !isSame(held, token)) return false;
  // browsers add the cookie by themselves, so a change also needs proof that the own page asks for it
  const isRead = context.req.method === "GET" || context.req.method === "HEAD";
  return isRead || context.req.header("origin") !== undefined;
}

/** Compares without showing by its time how much is equal. */
function isSame(given: string, token: string): boolean {
  const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(given), hash(token));
}

function bare(host: string): string {
  return host.replace(/^\[(.*)\]$/, "$1").toLowerCase();
}
