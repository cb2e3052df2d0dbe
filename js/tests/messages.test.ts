import { describe, expect, it } from "vitest";
import { type Command, encode, parse } from "../src/messages";
import { commands, outgoing, unpack } from "./fixtures";

describe("the wire", () => {
  it.each(Object.entries(outgoing))("reads what Python sends: %s", (name, packed) => {
    const message = unpack(packed);
    expect(message.kernel).toBe(7);
    for (const [key, value] of Object.entries({ ...packed.content, ...packed.buffer })) {
      if (key === "v" || key === "columns") continue;
      expect([name, key, message[key as keyof typeof message]]).toEqual([name, key, value]);
    }
  });

  it.each(Object.entries(commands))("sends what Python reads: %s", (_, content) => {
    const { v, req, ...command } = content;
    expect(encode(command as Command, req)).toEqual(content);
    expect(v).toBe(1);
  });

  it.each([null, 1, "x", [], {}, { v: 2, t: "ack", kernel: 1, seq: 1 }, { v: 1, t: "later", kernel: 1, seq: 1 }])(
    "leaves alone what it does not know: %j",
    (content) => expect(parse(content)).toBeNull(),
  );
});
