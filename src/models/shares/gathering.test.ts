import { afterEach, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { zeros } from "../../torch/create.ts";
import { memoryStats, setCap } from "../../torch/device.ts";
import { plannedPeers } from "../../torch/peers/peers.ts";
import { Gathering } from "./gathering.ts";
import type { Share } from "./share.ts";

afterEach(() => setCap("cpu", undefined));

it("a rank without room for another's gather ends, for it can't leave the round", async () => {
  using own = zeros([512], { dtype: "uint8", device: "cpu" });
  const share = { own, wholeBytes: 1024 } as unknown as Share;
  const gathering = new Gathering(plannedPeers(0, 2), new Map([[3, share]]), "cpu");
  gathering.open([3]);
  const { liveBytes } = memoryStats("cpu");
  setCap("cpu", liveBytes + 512);
  const attending = gathering.attend();
  await expect(attending).rejects.toThrow(UserError);
  await expect(attending).rejects.toThrow("layer 4 of the shared base");
  expect(memoryStats("cpu").liveBytes).toBe(liveBytes);
});
