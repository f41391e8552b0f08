/** Listens on a port, and stops in bounded time whatever the clients do. */
import type { Server } from "node:http";
import { type AddressInfo, isIPv6 } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import type { Hono } from "hono";
import { faultOf, UserError } from "../../errors.ts";

export interface Listening {
  port: number;
  /** Address to open, without a token: http://127.0.0.1:8265 */
  url: string;
  /** Stops listening, lets answers end for a moment, then closes all connections. Default: 2 s. */
  close(graceMs?: number): Promise<void>;
}

/** Time for answers to end after close(). */
const GRACE_MS = 2000;
/** Milliseconds between two looks for connections whose answers have ended. */
const IDLE_MS = 50;
/** Connections at once. */
const MOST_CONNECTIONS = 512;

/** Listens on host and port; port 0 takes a free one. Throws UserError if the system refuses. */
export async function listen(app: Hono, { host, port }: { host: string; port: number }): Promise<Listening> {
  const server = createAdaptorServer({ fetch: app.fetch }) as Server;
  server.maxConnections = MOST_CONNECTIONS;
  server.headersTimeout = 20_000;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(cannotListen(cause, host, port)));
    server.listen({ host, port }, resolve);
  });
  const { port: taken } = server.address() as AddressInfo;
  const shown = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  return {
    port: taken,
    url: `http://${isIPv6(shown) ? `[${shown}]` : shown}:${taken}`,
    close: (graceMs) => closed(server, graceMs),
  };
}

async function closed(server: Server, graceMs = GRACE_MS): Promise<void> {
  const ended = new Promise<void>((resolve) => server.close(() => resolve()));
  const idle = setInterval(() => server.closeIdleConnections(), IDLE_MS);
  const all = setTimeout(() => server.closeAllConnections(), graceMs);
  await ended;
  clearInterval(idle);
  clearTimeout(all);
}

function cannotListen(cause: Error, host: string, port: number): UserError {
  const { code } = cause as NodeJS.ErrnoException;
  const reasons: Readonly<Record<string, [string, string]>> = {
    EADDRINUSE: ["another program uses this port", "Pass another --port, or 0 for a free one."],
    EACCES: ["the system does not allow this port", "Pass a --port above 1023."],
    EADDRNOTAVAIL: ["this machine has no such address", "Pass an address of this machine as --host."],
    ENOTFOUND: ["no such host is known", "Pass an address of this machine as --host."],
  };
  const [reason, fix] = reasons[code ?? ""] ?? [faultOf(cause), "Pass another --host or --port."];
  return new UserError(`Cannot listen on ${host}, port ${port}: ${reason}.`, { fix, cause });
}
