/**
 * Rope on queries alone, and on keys with values alone, gives what it gives on packed heads: in the CPU loop,
 * and in the CUDA source compiled as C++.
 */
import { expect, test } from "vitest";
import { randn, zeros } from "../../src/torch/create.ts";
import { fused, type RopeInputs } from "../../src/torch/kernels/kernels.ts";
import { scope, Tensor } from "../../src/torch/tensor.ts";
import { kernelOf } from "./kernelCases.ts";
import { runOnCpu } from "./onCpu.ts";

const [T, G, Q, D] = [5, 2, 3, 20] as const;

test.each(["ropeUnpack", "ropePack"] as const)("%s of parts is that of the whole", (name) => {
  scope(() => {
    const packed = randn([T, G, Q + 2, D]);
    const [cos, sin] = [randn([T, D / 2]), randn([T, D / 2])];
    const parts = [packed.narrow(2, 0, Q).contiguous(), packed.narrow(2, Q, 2).contiguous()] as const;
    const none = (x: Tensor): Tensor => x.narrow(1, 0, 0).select(2, 0);
    const inputs: RopeInputs[] = [
      [packed, cos, sin, packed.narrow(2, 0, Q), packed.select(2, Q), packed.select(2, Q + 1)],
      [parts[0], cos, sin, parts[0], none(parts[0]), none(parts[0])],
      [parts[1], cos, sin, parts[1].narrow(2, 0, 0), parts[1].select(2, 0), parts[1].select(2, 1)],
    ];
    const { source, entry, work } = kernelOf(name);
    const compiled = inputs.slice(1).map((part) => {
      const [u, , , query, key, value] = part.map((x) => x);
      const room = zeros([1]); // stands for empty tensors, which are never read
      const shown = [u!, cos, sin, query!, key!, value!].map((x) => (x.numel === 0 ? room : x));
      const launch = work(part, undefined);
      const given = launch.inputs.map((input) =>
        input instanceof Tensor && input.numel === 0 ? room : input,
      );
      const inside: Record<number, { of: number; offsetElements: number }> = {};
      shown.forEach((x, index) => {
        if (index >= 3 && x !== room) inside[index] = { of: 0, offsetElements: index === 5 ? D : 0 };
      });
      const bytes = runOnCpu(
        { source, entry, dtype: "float32" },
        { ...launch, inputs: given },
        { inside },
      ).get(0)!;
      return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4).slice();
    });
    for (const each of inputs) fused[name](each);
    const whole = [packed.narrow(2, 0, Q), packed.narrow(2, Q, 2)];
    parts.forEach((part, index) => {
      expect(part.allclose(whole[index]!)).toBe(true);
      const wanted = part.toFloat32Array();
      compiled[index]!.forEach((value, at) => {
        expect(value).toBeCloseTo(wanted[at]!, 5);
      });
    });
  });
});
