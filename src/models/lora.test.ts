import { afterEach, describe, expect, it } from "vitest";
import { randomLora, smallConfig } from "../../tests/helpers/randomModel.ts";
import type { Adapter } from "../checkpoint/adapter/peft.ts";
import { scope } from "../torch/tensor.ts";
import { adapterFromLora, disposeLora, type Lora, loraFromAdapter } from "./lora.ts";
import { patternOfNames } from "./loraTargets.ts";
import { OFFICIAL_TARGETS } from "./xcomposer2/spec.ts";

const config = smallConfig({ layers: 3 });
const made: Lora[] = [];
afterEach(() => {
  for (const lora of made.splice(0)) disposeLora(lora);
});

function loraOf(targets: string): Lora {
  const lora = randomLora(config, { targets });
  made.push(lora);
  return lora;
}

const targetsOf = (lora: Lora): string | string[] => adapterFromLora(lora, "base").config.targetModules;

describe("target_modules of an adapter", () => {
  it("are linears where every layer has them", () => {
    expect(targetsOf(loraOf("attention.wo$|w2$"))).toEqual(["attention.wo", "feed_forward.w2"]);
    expect(targetsOf(loraOf(OFFICIAL_TARGETS))).toHaveLength(5);
  });

  it("are modules by their whole names where some layers have none", () => {
    const expected = [
      "model.layers.0.attention.wo",
      "model.layers.0.feed_forward.w2",
      "model.layers.2.attention.wo",
    ];
    const lora = loraOf("layers\\.[02].*wo$|layers.0.*w2");
    expect(targetsOf(lora)).toEqual(expected);
    const again = scope(() =>
      loraFromAdapter(config, adapterFromLora(lora, "base"), { device: "cpu", gradients: "none" }),
    );
    made.push(again);
    expect(targetsOf(again)).toEqual(expected);
  });
});

describe("an adapter for another model is refused", () => {
  const read = (adapter: Adapter, of = config): Lora =>
    scope(() => loraFromAdapter(of, adapter, { device: "cpu", gradients: "none" }));

  it("with a layer that the model lacks", () => {
    const adapter = adapterFromLora(loraOf("layers.2.*wo$"), "base");
    expect(() => read(adapter, smallConfig({ layers: 2 }))).toThrow(
      'The adapter has factors for "layers.2.attention.wo", which this model does not have.',
    );
  });

  it.each([
    "vit.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
    "layers.0.attention.wqkv.Plora_A",
    "output",
  ])("for factors of %s, which lorafit does not support, and not for a wrong base", (name) => {
    const adapter = adapterFromLora(loraOf("layers.0.*wo$"), "base");
    const [factors] = adapter.modules.values();
    const fault = `factors for "${name}". lorafit supports factors of the decoder's linear layers alone`;
    expect(() => read({ ...adapter, modules: new Map([[name, factors!]]) })).toThrow(fault);
  });

  it("with factors of another size", () => {
    const adapter = adapterFromLora(loraOf("w2$"), "base");
    expect(() => read(adapter, smallConfig({ layers: 3, ffn: 64 }))).toThrow(
      "feed_forward.w2 has A [4,48] and B [32,4]; the model needs [R, 64] and [32, R].",
    );
  });
});

it("an expression that matches nothing says what there is", () => {
  const message = (targets: string): string => `No linear of the model matches lora_targets: ${targets}.`;
  expect(() => loraOf("vision")).toThrow(message("vision"));
  expect(() => loraOf(patternOfNames(["self_attn.q_proj", "w9"]))).toThrow(message("self_attn.q_proj, w9"));
  expect(() => loraOf(`${patternOfNames(["w9"])}|^x|z`)).toThrow(message("w9, ^x|z"));
});
