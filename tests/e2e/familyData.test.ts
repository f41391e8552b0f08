/** Data of further families, from files as users write them to the losses of the official models. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { integers, readFixture } from "../helpers/fixtures.ts";
import { golden } from "../helpers/shared.ts";
import { lorafit, records } from "./lorafit.ts";

type Content = string | (string | { picture: true })[];

interface Case {
  name: string;
  variant?: string;
  samples: { role: string; content: Content }[][];
  loss: number;
}

const folder = mkdtempSync(join(tmpdir(), "lorafit-data-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Folders of golden data, with the id of tokens of pictures. */
const FAMILIES = [
  ["qwen2_5_vl", 912],
  ["internvl_hf", 924],
  ["qwen3_vl", 912],
] as const;

describe.each(FAMILIES)("%s", (data, pad) => {
  const { cases } = JSON.parse(readFileSync(golden(`${data}/cases/manifest.json`), "utf8")) as {
    cases: Case[];
  };
  const SINGLE = cases.filter(({ samples, variant = "tiny" }) => samples.length === 1 && variant === "tiny");

  test("records of ms-swift's form have the official losses", () => {
    expectLosses(
      "messages.jsonl",
      SINGLE.map(({ name, samples }) => ({
        messages: samples[0]?.map(({ role, content }) => ({ role, content: withMarks(content) })),
        images: picturesOf(data, name, samples),
      })),
    );
  });

  test("records of LLaMA-Factory's form, with the system turn beside them, do too", () => {
    expectLosses(
      "sharegpt.json",
      SINGLE.map(({ name, samples }) => ({
        conversations: samples[0]
          ?.filter(({ role }) => role !== "system")
          .map(({ role, content }) => ({
            from: role === "user" ? "human" : "gpt",
            value: withMarks(content),
          })),
        system: samples[0]?.find(({ role }) => role === "system")?.content ?? "",
        images: picturesOf(data, name, samples),
      })),
    );
  });

  test("token ids do too, where -200 stands for all pads of a picture", () => {
    expectLosses(
      "ids.jsonl",
      SINGLE.map(({ name, samples }) => {
        const fixture = readFixture(golden(`${data}/cases/${name}.safetensors`));
        const [ids, labels] = [integers(fixture, "input_ids"), integers(fixture, "labels")];
        const kept = ids.flatMap((id, row) => (id === pad && ids[row - 1] === pad ? [] : [row]));
        return {
          input_ids: kept.map((row) => (ids[row] === pad ? -200 : ids[row])),
          labels: kept.map((row) => labels[row]),
          images: picturesOf(data, name, samples),
        };
      }),
    );
  });

  function expectLosses(file: string, samples: object[]): void {
    const path = join(folder, `${data}-${file}`);
    const isLines = file.endsWith("l");
    writeFileSync(
      path,
      isLines ? samples.map((one) => JSON.stringify(one)).join("\n") : JSON.stringify(samples),
    );
    const run = lorafit([
      "eval",
      "--model",
      golden(`${data}/tiny`),
      "--data",
      path,
      "--device",
      "cpu",
      "--json",
    ]);
    const lines = records(run) as { index?: number; loss: number }[];
    const losses = lines.filter(({ index }) => index !== undefined).map(({ loss }) => loss);
    expect(losses).toHaveLength(SINGLE.length);
    for (const [index, loss] of losses.entries())
      expect(Math.abs(loss - Number(SINGLE[index]?.loss)), SINGLE[index]?.name).toBeLessThan(1e-5);
  }
});

function withMarks(content: Content): string {
  if (typeof content === "string") return content;
  return content.map((part) => (typeof part === "string" ? part : "<image>")).join("");
}

function picturesOf(data: string, name: string, samples: Case["samples"]): string[] {
  const parts = (samples[0] ?? []).flatMap(({ content }) => (typeof content === "string" ? [] : content));
  const count = parts.filter((part) => typeof part !== "string").length;
  return Array.from({ length: count }, (_, index) => golden(`${data}/cases/${name}.img${index}.png`));
}
