// The JavaScript port as a program that can be judged: JSON lines on stdin and stdout.
//
//     python -m verify --impl cmd:"node verify/ports/js/testee.mjs"

import { createInterface } from "node:readline";
import { Refusal } from "../../../toy/page/losses.mjs";
import { evaluate, operations } from "./sequences.mjs";

const NUMBERS = new Map([["inf", Infinity], ["-inf", -Infinity], ["nan", NaN]]);
const SPELLINGS = new Map([...NUMBERS].map(([spelling, x]) => [x, spelling]));

const say = (message) => console.log(JSON.stringify(message, (_, value) => SPELLINGS.get(value) ?? value));

function answer({ id, operation, inputs }) {
  try {
    return { id, outputs: evaluate(operation, inputs) };
  } catch (error) {
    if (error instanceof Refusal) return { id, error: error.message };
    throw error;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line, (_, value) => NUMBERS.get(value) ?? value);
  if (message.cmd === "stop") break;
  const itself = { name: "minipref-js", version: "1.0", language: "javascript" };
  if (message.cmd === "start") say({ ...itself, operations: Object.keys(operations), dtypes: ["float64"] });
  else say(answer(message));
}
process.stdin.destroy(); // an open pipe would keep the program alive
