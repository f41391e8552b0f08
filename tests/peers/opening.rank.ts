/** Ranks of which the last dies, or names a wrong network interface, before the ranks are joined. */

import { native } from "../../src/torch/native.ts";
import type { OpenPeers } from "../../src/torch/peers/open.ts";

const { RANK, WORLD_SIZE, TEST_LAST } = process.env;
if (Number(RANK) === Number(WORLD_SIZE) - 1) {
  if (TEST_LAST === "dies") native.openGroup = () => process.kill(process.pid, "SIGKILL") as never;
  else process.env.GLOO_SOCKET_IFNAME = TEST_LAST;
}

export async function rank(peers: OpenPeers): Promise<void> {
  await peers.barrier();
}
