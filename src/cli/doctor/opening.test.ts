import { once } from "node:events";
import { createServer } from "node:net";
import { expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import type { PlaceOfRank } from "../../torch/peers/place.ts";
import { checkInterfaces, explained, symptomOf } from "./opening.ts";
import { interfaceList } from "./rankFacts.ts";

const INTERFACES = {
  lo: [{ address: "127.0.0.1", internal: true }],
  eth0: [
    { address: "10.0.0.4", internal: false },
    { address: "fe80::1", internal: false, scopeid: 2 },
  ],
  docker0: [{ address: "172.17.0.1", internal: false }],
} as never;

it("accepts an interface of this machine for Gloo, and refuses NCCL's forms with the list of names", () => {
  checkInterfaces({}, INTERFACES);
  checkInterfaces({ GLOO_SOCKET_IFNAME: "eth0" }, INTERFACES);
  expect(interfaceList(INTERFACES)).toEqual(["eth0 10.0.0.4", "docker0 172.17.0.1"]);
  const refused = (name: string) => () => checkInterfaces({ GLOO_SOCKET_IFNAME: name }, INTERFACES);
  expect(refused("^lo,docker")).toThrow('GLOO_SOCKET_IFNAME=^lo,docker: this machine has no interface "^lo"');
  expect(refused("10.0.0.4")).toThrow('no interface "10.0.0.4"');
});

it("tells by one connection whether the store is there, refused, or unknown by name", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  expect(await symptomOf("127.0.0.1", port)).toBeUndefined();
  server.close();
  await once(server, "close");
  expect(await symptomOf("127.0.0.1", port)).toContain(`Nothing listens at 127.0.0.1:${port}: rank 0`);
  expect(await symptomOf("no-such-host.invalid", port)).toMatch(
    /The name no-such-host.invalid (is unknown|can't)/,
  );
});

it("adds what the network shows to the error of a rank that did not meet the others", async () => {
  const place = { rank: 1, host: "no-such-host.invalid", port: 29_500 } as PlaceOfRank;
  const error = new UserError("Rank 1 can't reach the store.", { fix: "Check the firewall." });
  const more = (await explained(error, place)) as UserError;
  expect(more.message).toBe(error.message);
  expect(more.fix).toMatch(/^Check the firewall\.\nThe name/);
  expect(await explained(error, { ...place, rank: 0 })).toBe(error); // rank 0 serves the store
});
