/** Opens the socket of the ranks' store before any rank starts, so that nobody takes its port meanwhile. */
import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { UserError } from "../errors.ts";

export interface StoreSocket {
  port: number;
  /** Descriptor for rank 0 to inherit. */
  fd: number;
  /** Closes this process's side. Rank 0 keeps its own. */
  close(): void;
}

const BACKLOG = 1024;

/**
 * Listens on this machine alone at a free port, or for ranks of other machines on all addresses at `port`.
 * Throws UserError if the port is taken.
 */
export async function openStoreSocket(port: number | undefined): Promise<StoreSocket> {
  const server = createServer();
  server.listen(
    port === undefined ? { host: "127.0.0.1", port: 0, backlog: BACKLOG } : { port, backlog: BACKLOG },
  );
  try {
    await once(server, "listening");
  } catch (cause) {
    throw new UserError(`Port ${port} of this machine is taken (${(cause as NodeJS.ErrnoException).code}).`, {
      fix: "Set another one, the same on all machines:  export MASTER_PORT=29501",
      cause,
    });
  }
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the socket has no port");
  return { port: address.port, fd: descriptorOf(server), close: () => server.close() };
}

/** Returns the descriptor of a listening socket, for which Node has no public name. */
function descriptorOf(server: Server): number {
  const { _handle: handle } = server as unknown as { _handle?: { fd?: number } };
  if (typeof handle?.fd !== "number" || handle.fd < 0) throw new Error("Node reports no descriptor");
  return handle.fd;
}
