/** Explains why ranks do not find each other: what this rank sees of the network, by its symptom. */
import { once } from "node:events";
import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { UserError } from "../../errors.ts";
import type { Environment } from "../../torch/peers/launchers/variables.ts";
import type { PlaceOfRank } from "../../torch/peers/place.ts";
import { interfaceList } from "./rankFacts.ts";

const PROBE_MS = 5_000;

/** Throws UserError if GLOO_SOCKET_IFNAME names no interface of this machine, as NCCL's forms do. */
export function checkInterfaces(env: Environment, interfaces = networkInterfaces()): void {
  const named = env.GLOO_SOCKET_IFNAME?.split(",")[0]?.trim();
  if (!named || named in interfaces) return;
  throw new UserError(
    `GLOO_SOCKET_IFNAME=${env.GLOO_SOCKET_IFNAME}: this machine has no interface "${named}".`,
    {
      fix: `Name one of its interfaces (${interfaceList(interfaces).join(", ") || "none reaches other machines"}). NCCL's forms, such as ^lo or =eth0, are not for Gloo.`,
    },
  );
}

/** Returns the error of ranks that did not meet, with what this rank sees of the store's address. */
export async function explained(thrown: unknown, { rank, host, port }: PlaceOfRank): Promise<unknown> {
  if (!(thrown instanceof UserError) || rank === 0) return thrown;
  const symptom = await symptomOf(host, port);
  const fix = [thrown.fix, symptom].filter(Boolean).join("\n");
  return new UserError(thrown.message, { fix, cause: thrown });
}

const SYMPTOMS: Readonly<Record<string, (where: string, host: string) => string>> = {
  ENOTFOUND: (_, host) =>
    `The name ${host} is unknown here. Set MASTER_ADDR to an address, or add the name to /etc/hosts.`,
  EAI_AGAIN: (_, host) =>
    `The name ${host} can't be looked up: no name server answers. Set MASTER_ADDR to an address.`,
  ECONNREFUSED: (where) =>
    `Nothing listens at ${where}: rank 0 has not started, has ended, or has another MASTER_PORT.`,
  ETIMEDOUT: (where) =>
    `Nothing answers at ${where}: a firewall drops the connection, or the address is of another network.`,
  EHOSTUNREACH: (where) => `No route leads to ${where}: the address is of another network.`,
  ENETUNREACH: (where) => `No route leads to ${where}: the address is of another network.`,
};

/** Connects once. Returns what its failure means; undefined if it works. */
export async function symptomOf(
  host: string,
  port: number,
  timeoutMs = PROBE_MS,
): Promise<string | undefined> {
  const socket = connect({ host, port });
  const timer = setTimeout(() => {
    socket.destroy(Object.assign(new Error("no answer"), { code: "ETIMEDOUT" }));
  }, timeoutMs);
  try {
    await once(socket, "connect");
    return undefined;
  } catch (cause) {
    const { code = "" } = cause as NodeJS.ErrnoException;
    return (
      SYMPTOMS[code]?.(`${host}:${port}`, host) ?? `Connecting to ${host}:${port} fails: ${code || cause}.`
    );
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}
