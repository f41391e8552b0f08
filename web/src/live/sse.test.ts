import fc from "fast-check";
import { expect, it } from "vitest";
import { readEvents } from "./sse.ts";

const TEXT =
  ': hello\n\nevent: list\nid: 7\ndata: {"a":"é"}\n\ndata:one\r\ndata: two\r\n\r\nevent: run\ndata: cut off';

it("reads events however the bytes are cut, and leaves out comments and an event that has no end", async () => {
  const bytes = new TextEncoder().encode(TEXT);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: bytes.length })), async (places) => {
      const cuts = [0, ...places.sort((one, other) => one - other), bytes.length];
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          for (const [index, from] of cuts.slice(0, -1).entries())
            controller.enqueue(bytes.slice(from, cuts[index + 1]));
          controller.close();
        },
      });
      const events = [];
      for await (const event of readEvents(body)) events.push(event);
      expect(events).toEqual([
        { event: "list", data: '{"a":"é"}' },
        { event: "message", data: "one\ntwo" },
      ]);
    }),
  );
});
