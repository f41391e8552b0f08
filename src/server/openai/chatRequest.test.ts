import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ApiError } from "./apiError.ts";
import { readChatRequest } from "./chatRequest.ts";

const hello = { model: "base", messages: [{ role: "user", content: " Hello " }] };

function faultOf(body: unknown): { status: number; param: string | null; message: string } {
  try {
    readChatRequest(body);
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(ApiError);
    const { status, param, message } = thrown as ApiError;
    return { status, param, message };
  }
  throw new Error("the request was accepted");
}

describe("readChatRequest", () => {
  it("fills in the defaults of the API", () => {
    expect(readChatRequest(hello)).toEqual({
      model: "base",
      turns: [{ role: "user", text: " Hello " }],
      pictureUrls: [],
      temperature: 1,
      topP: 1,
      repetitionPenalty: 1,
      stop: [],
      isStreamed: false,
      withUsage: false,
    });
  });

  it("puts pictures where their parts stand", () => {
    const content = [
      { type: "text", text: "Compare" },
      { type: "text", text: "these:" },
      { type: "image_url", image_url: { url: "data:image/png;base64,AA==", detail: "high" } },
      { type: "image_url", image_url: "file:///b.png" },
      { type: "text", text: "Which is older?" },
    ];
    const { turns, pictureUrls } = readChatRequest({ ...hello, messages: [{ role: "user", content }] });
    expect(turns[0]!.text).toBe("Compare\nthese:<ImageHere><ImageHere>Which is older?");
    expect(pictureUrls).toEqual(["data:image/png;base64,AA==", "file:///b.png"]);
  });

  it("reads what clients send beside: max_completion_tokens, one stop text, usage of a stream, nulls", () => {
    const more = {
      max_tokens: 7,
      max_completion_tokens: 5,
      stop: "\n",
      seed: -3,
      stream: true,
      stream_options: { include_usage: true },
      n: 1,
      tools: [],
      frequency_penalty: 0,
      response_format: { type: "text" },
      top_p: null,
      user: "somebody",
    };
    expect(readChatRequest({ ...hello, ...more })).toMatchObject({
      maxTokens: 5,
      stop: ["\n"],
      seed: 3,
      isStreamed: true,
      withUsage: true,
      topP: 1,
    });
  });

  it("takes a developer's message as the system's, and an answer without text", () => {
    const messages = [
      { role: "developer", content: "Be brief." },
      { role: "assistant", content: null },
      { role: "user", content: "?" },
    ];
    expect(readChatRequest({ ...hello, messages }).turns.map(({ role, text }) => [role, text])).toEqual([
      ["system", "Be brief."],
      ["assistant", ""],
      ["user", "?"],
    ]);
  });

  it.each([
    ["no messages", { model: "base", messages: [] }, "messages"],
    ["an unknown role", { ...hello, messages: [{ role: "tool", content: "" }] }, "messages[0].role"],
    ["a temperature of 3", { ...hello, temperature: 3 }, "temperature"],
    ["no token", { ...hello, max_tokens: 0 }, "max_tokens"],
    ["an empty stop text", { ...hello, stop: [""] }, "stop[0]"],
    ["two answers", { ...hello, n: 2 }, "n"],
    ["tools", { ...hello, tools: [{ type: "function" }] }, "tools"],
    ["JSON as a format", { ...hello, response_format: { type: "json_object" } }, "response_format"],
    [
      "a picture of the assistant",
      { ...hello, messages: [{ role: "assistant", content: [{ type: "image_url", image_url: "data:," }] }] },
      "messages[0].content",
    ],
    [
      "a placeholder in the text",
      { ...hello, messages: [{ role: "user", content: "<ImageHere>?" }] },
      "messages[0].content",
    ],
  ])("refuses %s, and names the field", (_, body, param) => {
    expect(faultOf(body)).toMatchObject({ status: 400, param });
  });

  it("refuses any other JSON with an answer in the API's form", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (body) => {
        expect(faultOf(body).status).toBe(400);
      }),
    );
  });
});
