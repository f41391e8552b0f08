/** Collectives of cards, over a libnccl that only writes down what is asked of it. */
import { empty } from "../../src/torch/create.ts";
import { memoryStats } from "../../src/torch/device.ts";
import type { CardDevice } from "../../src/torch/dtypes.ts";
import { native } from "../../src/torch/native.ts";
import type { OpenPeers } from "../../src/torch/peers/open.ts";

export async function rank(
  peers: OpenPeers,
  { device, keepOn }: { device: CardDevice; keepOn: boolean },
): Promise<unknown> {
  using x = empty([1000], { device, dtype: "bfloat16" });
  using into = empty([2000], { device, dtype: "bfloat16" });
  using from = empty([2000], { device, dtype: "bfloat16" });
  using onCpu = empty([10]).fill_(1);
  const before = memoryStats(device).liveBytes;
  peers.sum(x).wait();
  peers.gather(x, into).wait();
  peers.exchange(from, into).wait();
  peers.broadcast(x, 1).wait();
  peers.sum(onCpu).wait(); // by Gloo
  const pending = peers.sum(x);
  await pending.arrival();
  pending.wait();
  console.log("summing");
  while (keepOn) {
    peers.sum(x).wait();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return {
    extraBytes: memoryStats(device).liveBytes - before,
    pending: native.pendingCollectives(),
    onCpu: [...onCpu.toFloat32Array()],
  };
}
