import { hostname } from "node:os";
import { expect, test } from "vitest";
import { UserError } from "../../errors.ts";
import { agree } from "./agreement.ts";
import { ALONE, type Json, type Peers } from "./peers.ts";

/** Returns a rank's view of a group in which the other ranks tell what they are given. */
function among(...others: { host: string; facts: Record<string, string> }[]): Peers {
  return { ...ALONE, tell: async (_key: string, value: Json) => [value, ...others] };
}

test("ranks with equal facts agree, whatever the order of keys", async () => {
  await agree(ALONE, { version: "1", policy: { a: 1, b: [2, 3] } });
  const facts = { version: '"1"', policy: '{"a":1,"b":[2,3]}' };
  await agree(among({ host: "b", facts }), { policy: { b: [2, 3], a: 1 }, version: "1" });
});

test("a rank that differs is named, with its host and the fact; long facts by their hash", async () => {
  const peers = among(
    { host: "b", facts: { version: '"1"', order: "sha256 0" } },
    { host: "c", facts: { version: '"2"', order: "sha256 0" } },
  );
  const error = await agree(peers, { version: "1", order: "x".repeat(100) }).catch((thrown) => thrown);
  expect(error).toBeInstanceOf(UserError);
  const lines = error.message.split("\n");
  expect(lines[0]).toBe("The ranks were not started alike:");
  expect(lines[1]).toMatch(/^ {2}rank 1 \(host b\) has order sha256 0, rank 0 sha256 [0-9a-f]{16}$/);
  expect(lines[2]).toBe('  rank 2 (host c) has version "2", rank 0 "1"');
  expect(lines[3]).toMatch(/^ {2}rank 2 \(host c\) has order/);
});

test("a fact that only one rank has is a difference", async () => {
  const error = await agree(among({ host: hostname(), facts: { extra: "1" } }), {}).catch((thrown) => thrown);
  expect(error.message).toContain("has extra 1, rank 0 nothing");
});
