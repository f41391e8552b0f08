/** The address of this machine that other ranks connect to. */
import { once } from "node:events";
import { connect, isIPv4, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { UserError } from "../../errors.ts";
import type { PlaceOfRank } from "./place.ts";

export const LOOPBACK = "127.0.0.1";

/** Whether all ranks run on this machine. */
export function isLocal({ localCount, count }: PlaceOfRank): boolean {
  return localCount === count;
}

/**
 * Returns the interface's name that GLOO_SOCKET_IFNAME gives, the loopback address if all ranks are on this
 * machine, and otherwise the address from which this machine reaches the store.
 */
export async function ownAddress(place: PlaceOfRank, env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const named = env.GLOO_SOCKET_IFNAME?.split(",")[0]?.trim();
  if (named) return named;
  if (isLocal(place)) return LOOPBACK;
  const towardsStore = await localAddress(place);
  if (towardsStore && !isLoopbackAddress(towardsStore)) return towardsStore;
  const others = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  const outer = others.filter(({ internal, scopeid }) => !internal && !scopeid).map(({ address }) => address);
  const address = outer.find(isIPv4) ?? outer[0];
  if (address === undefined) {
    throw new UserError("This machine has no network address that other machines could reach.", {
      fix: "Name the network interface: export GLOO_SOCKET_IFNAME=eth0",
    });
  }
  return address;
}

/** Returns the local end of a connection to the store. */
async function localAddress({ host, port }: PlaceOfRank): Promise<string | undefined> {
  const socket: Socket = connect({ host, port });
  try {
    await once(socket, "connect");
    return socket.localAddress?.replace(/^::ffff:/, "");
  } finally {
    socket.destroy();
  }
}

function isLoopbackAddress(address: string): boolean {
  return address.startsWith("127.") || address === "::1";
}
