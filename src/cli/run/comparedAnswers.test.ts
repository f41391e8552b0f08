import { expect, it } from "vitest";
import { comparedAnswers, type EvaluatedSample } from "./comparedAnswers.ts";

const samples = (answer: string, indices: number[]): EvaluatedSample[] =>
  indices.map((index) => ({
    index,
    images: [`${index}.png`],
    answers: [{ question: `q${index}`, expected: `e${index}`, answer: `${answer}${index}` }],
  }));

it("compares three samples, from the first to the last that all evaluations have answered", () => {
  const before = { name: "before", samples: samples("b", [0, 1, 2, 3, 4, 5, 6]) };
  const after = { name: "after", samples: samples("a", [0, 1, 2, 3, 4]) };
  const compared = comparedAnswers([before, after]);
  expect(compared.map(({ images }) => images[0])).toEqual(["0.png", "2.png", "4.png"]);
  expect(compared[1]).toEqual({
    ...{ images: ["2.png"], question: "q2", expected: "e2" },
    given: [
      { name: "before", answer: "b2" },
      { name: "after", answer: "a2" },
    ],
  });
});

it("shows fewer where there are fewer, and none of evaluations without answers", () => {
  expect(comparedAnswers([{ name: "one", samples: samples("b", [7]) }])).toHaveLength(1);
  expect(comparedAnswers([{ name: "one", samples: samples("b", [7, 9]) }])).toHaveLength(2);
  expect(comparedAnswers([{ name: "one", samples: [{ index: 0 }] }])).toEqual([]);
  expect(comparedAnswers([])).toEqual([]);
});
