/**
 * A model hub on this machine: one repository, org/name, with Hugging Face's and ModelScope's API. Tests can
 * make it misbehave.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** Files of a test's hub, and its faults. */
interface Hub {
  files: Record<string, Buffer>;
  /** Bytes after which answers to whole files and ranges break off, one number per answer. */
  cuts: number[];
  ignoresRanges: boolean;
  /** Bytes that are sent instead of a file's own. */
  garbled: Record<string, Buffer>;
  status: number;
  /** "path from-to" of each answer with content. */
  sent: string[];
  authorization: string | undefined;
}

export interface HubServer extends Hub {
  endpoint: string;
  close(): Promise<void>;
}

/** Serves these files until the returned server is closed. */
export async function startHub(files: Record<string, Buffer>): Promise<HubServer> {
  const hub: Hub = {
    files,
    ...{ cuts: [], ignoresRanges: false, garbled: {}, status: 200, sent: [], authorization: undefined },
  };
  const server = createServer((request, response) => answer(served, request, response));
  const served: HubServer = Object.assign(hub, {
    endpoint: "",
    close: async () => {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  served.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return served;
}

function answer(hub: Hub, request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url!, "http://127.0.0.1");
  const path = url.pathname;
  hub.authorization = request.headers.authorization ?? request.headers.cookie;
  const json = (value: unknown): void => {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(value));
  };
  if (hub.status !== 200) {
    response.statusCode = hub.status;
    json({ error: "no" });
  } else if (path === "/api/v1/models/org/name/repo/files") {
    json({
      Code: 200,
      Success: true,
      Data: { Files: [FOLDER, ...Object.entries(hub.files).map(inModelScope)] },
    });
  } else if (path === "/api/v1/models/org/name/repo") {
    sendFile(hub, url.searchParams.get("FilePath")!, request, response);
  } else if (/^\/api\/models\/org\/name\/revision\/\w+$/.test(path)) {
    json({ _id: "1", id: "org/name", sha: COMMIT, lastModified: "2024-01-01T00:00:00.000Z" });
  } else if (path === `/api/models/org/name/tree/${COMMIT}`) {
    json(Object.entries(hub.files).map(([name, data]) => listed(name, data)));
  } else if (path.startsWith(`/org/name/resolve/${COMMIT}/`)) {
    sendFile(hub, path.slice(`/org/name/resolve/${COMMIT}/`.length), request, response);
  } else {
    response.statusCode = 404;
    json({ error: "Repository not found", Code: 10010205001, Message: "model not found", Success: false });
  }
}

function listed(path: string, data: Buffer): object {
  const oid = createHash("sha1").update(`blob ${data.length}\0`).update(data).digest("hex");
  const lfs = { oid: createHash("sha256").update(data).digest("hex"), size: data.length };
  return { type: "file", path, size: data.length, oid, ...(data.length > 1000 ? { lfs } : {}) };
}

const FOLDER = { Name: "deep", Path: "deep", Type: "tree", Size: 0, Sha256: "" };

function inModelScope([path, data]: [string, Buffer]): object {
  const Sha256 = createHash("sha256").update(data).digest("hex");
  return {
    Name: path.split("/").at(-1),
    Path: path,
    Type: "blob",
    Size: data.length,
    Sha256,
    Revision: COMMIT,
  };
}

function sendFile(hub: Hub, name: string, request: IncomingMessage, response: ServerResponse): void {
  const data = hub.garbled[name] ?? hub.files[name]!;
  const [, from, to] = /bytes=(\d+)-(\d*)/.exec(request.headers.range ?? "") ?? [];
  const probe = from === "0" && to === "0";
  const ranged = from !== undefined && (probe || !hub.ignoresRanges);
  const start = ranged ? Number(from) : 0;
  const end = ranged && to ? Number(to) + 1 : data.length;
  response.statusCode = ranged ? 206 : 200;
  response.setHeader("etag", '"etag"');
  response.setHeader("content-length", end - start);
  if (ranged) response.setHeader("content-range", `bytes ${start}-${end - 1}/${data.length}`);
  if (!probe) hub.sent.push(`${name} ${start}-${end}`);
  const cut = probe ? undefined : hub.cuts.shift();
  if (cut === undefined) return void response.end(data.subarray(start, end));
  response.write(data.subarray(start, start + cut), () => setTimeout(() => response.destroy(), 20));
}
