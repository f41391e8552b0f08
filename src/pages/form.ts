/**
 * Draws a filled-in form: sections of labelled boxes, choices to tick, conditions in small print, a
 * signature.
 */
import { type TextStyle, textPath, textWidth, wrapText } from "../drawing/lettering.ts";
import { type Box, line, path, rect, turned } from "../drawing/svg.ts";
import type { Dice } from "./dice.ts";
import type { PageDrawing, PageSize, Question } from "./drawing.ts";
import {
  BOILERPLATE,
  CHOICES,
  CONDITIONS,
  type Field,
  PERSON,
  SECTIONS,
  type Section,
  TITLES,
} from "./fields.ts";
import { date } from "./words.ts";

const MARGIN = 110;
const GUTTER = 90;
const MASTHEAD_HEIGHT = 290;
const CONDITIONS_HEIGHT = 400;
const SIGNATURE_WIDTH = 760;
const SECTION_HEAD_HEIGHT = 56;
const SECTION_GAP = 30;
const ROW_HEIGHT = 116;
const CHOICE_HEIGHT = 66;

/** The colour that the form is printed in, the style of its labels, and that of the pen. */
interface Look {
  accent: string;
  label: TextStyle;
  pen: TextStyle;
}

export function drawForm(dice: Dice, { width, height }: PageSize): PageDrawing {
  const look = formLook(dice);
  const [title, number] = [dice.pick(TITLES), dice.code("A-###/##")];
  const elements = [
    rect({ x: 0, y: 0, width, height }, { fill: dice.pick(["#ffffff", "#fffdf6", "#f8fbf8", "#fdf9fa"]) }),
    ...masthead(title, number, width, look),
  ];
  const questions: Question[] = [{ question: "What is the number of this form?", answer: number }];
  const add = (part: PageDrawing) => {
    elements.push(...part.elements);
    questions.push(...part.questions);
  };

  const columns = Math.max(1, Math.round(width / 1900));
  const columnWidth = (width - 2 * MARGIN - (columns - 1) * GUTTER) / columns;
  const bottom = height - CONDITIONS_HEIGHT - GUTTER;
  const sections = [PERSON, ...dice.some(SECTIONS, SECTIONS.length)];
  const choices = dice.some(CHOICES, CHOICES.length);
  for (let column = 0; column < columns; column++) {
    const x = MARGIN + column * (columnWidth + GUTTER);
    let y = MASTHEAD_HEIGHT;
    for (let next = sections[0]; next && y + heightOf(next) <= bottom; next = sections[0]) {
      add(drawSection(dice, next, { x, y, width: columnWidth, height: heightOf(next) }, look));
      y += heightOf(next);
      sections.shift();
    }
    for (; choices.length > 0 && y + CHOICE_HEIGHT <= bottom; y += CHOICE_HEIGHT) {
      add(
        drawChoice(
          dice,
          choices.shift() ?? ["", []],
          { x, y, width: columnWidth, height: CHOICE_HEIGHT },
          look,
        ),
      );
    }
  }
  add(drawConditions(dice, conditionsBox(width, height), look));
  add(drawStamp(dice, width - MARGIN - 230, 196));
  add(drawSignature(dice, width - MARGIN - SIGNATURE_WIDTH, height - 160, look));
  return { elements, questions };
}

function formLook(dice: Dice): Look {
  const accent = dice.pick(["#1f4f82", "#7a2a3a", "#2c5e46", "#4a4458", "#8a5a14"]);
  const pen = dice.pick([
    { face: "serifItalic", fill: "#1d2f8f" },
    { face: "mono", fill: "#22242c" },
    { face: "serifItalic", fill: "#20242e" },
    { face: "condensed", fill: "#123a9c" },
  ] as const);
  return { accent, label: { face: "sans", sizePixels: 21, fill: accent }, pen: { ...pen, sizePixels: 38 } };
}

function masthead(title: string, number: string, width: number, { accent }: Look): string[] {
  const small: TextStyle = { face: "sans", sizePixels: 24, fill: accent };
  return [
    textPath(title, MARGIN, 150, { face: "serifBold", sizePixels: 76, fill: accent }),
    textPath("Please read the conditions below before you fill in the form.", MARGIN, 212, small),
    textPath(`Form ${number}`, width - MARGIN, 130, {
      ...small,
      face: "sansBold",
      sizePixels: 34,
      anchor: "end",
    }),
    textPath("for the office:", width - MARGIN - 480, 190, { ...small, anchor: "end" }),
    rect({ x: width - MARGIN - 460, y: 160, width: 460, height: 76 }, { stroke: accent, strokePixels: 2 }),
    line(MARGIN, 256, width - MARGIN, 256, { stroke: accent, strokePixels: 5 }),
  ];
}

/** The office's stamp across its box, slightly turned. */
function drawStamp(dice: Dice, x: number, y: number): PageDrawing {
  const day = date(dice, 2025, 2025);
  const ink = dice.pick(["#b3202c", "#2743a6", "#5a2a82"]);
  const frame = { x: x - 215, y: y - 46, width: 430, height: 92 };
  const style: TextStyle = { face: "condensedBold", sizePixels: 34, fill: ink, anchor: "middle" };
  const stamp =
    rect(frame, { stroke: ink, strokePixels: 5 }, 12) +
    textPath(`RECEIVED ${day.toUpperCase()}`, x, y + 13, style);
  return {
    elements: [turned(stamp, dice.int(-50, 50) / 10, x, y)],
    questions: [{ question: "Which date does the stamp of the office show?", answer: day.toUpperCase() }],
  };
}

function heightOf({ rows }: Section): number {
  return SECTION_HEAD_HEIGHT + rows.length * ROW_HEIGHT + SECTION_GAP;
}

function drawSection(dice: Dice, { title, rows }: Section, { x, y, width }: Box, look: Look): PageDrawing {
  const head = { x, y, width, height: SECTION_HEAD_HEIGHT - 6 };
  const elements = [
    rect(head, { fill: look.accent }),
    textPath(title, x + 18, y + 37, { face: "sansBold", sizePixels: 28, fill: "#fff" }),
  ];
  const questions: Question[] = [];
  for (const [index, fields] of rows.entries()) {
    const shares = fields.reduce((sum, [, share]) => sum + share, 0);
    let left = x;
    for (const field of fields) {
      const box = {
        x: left,
        y: y + SECTION_HEAD_HEIGHT + index * ROW_HEIGHT,
        width: (width * field[1]) / shares,
        height: ROW_HEIGHT,
      };
      const drawn = drawField(dice, field, box, look);
      elements.push(...drawn.elements);
      questions.push(...drawn.questions);
      left += box.width;
    }
  }
  return { elements, questions };
}

function drawField(
  dice: Dice,
  [label, , fill]: Field,
  box: Box,
  { accent, label: labelStyle, pen }: Look,
): PageDrawing {
  const value = fill(dice);
  const sizePixels = Math.min(pen.sizePixels, (pen.sizePixels * (box.width - 44)) / textWidth(value, pen));
  const place = { x: box.x + 20 + dice.int(0, 14), y: box.y + 92 + dice.int(-4, 4) };
  return {
    elements: [
      rect(box, { fill: "#fff", stroke: accent, strokePixels: 2 }),
      textPath(label, box.x + 14, box.y + 32, labelStyle),
      textPath(value, place.x, place.y, { ...pen, sizePixels }),
    ],
    questions: [{ question: `What is written in the field "${label}"?`, answer: value }],
  };
}

function drawChoice(
  dice: Dice,
  [label, answers]: readonly [string, readonly string[]],
  { x, y, width }: Box,
  { accent, pen }: Look,
): PageDrawing {
  const style: TextStyle = { face: "sans", sizePixels: 26, fill: "#2a2d33" };
  const chosen = dice.pick(answers);
  const elements = [textPath(label, x, y + 44, { ...style, face: "sansBold", fill: accent })];
  const step = (width - 360) / answers.length;
  for (const [index, answer] of answers.entries()) {
    const [left, top] = [x + 360 + index * step, y + 18];
    elements.push(
      rect({ x: left, y: top, width: 32, height: 32 }, { fill: "#fff", stroke: accent, strokePixels: 2.5 }),
    );
    elements.push(textPath(answer, left + 46, y + 44, style));
    if (answer === chosen) {
      const cross = `M${left + 3} ${top + 4}l27 25m1-28l-29 29`;
      elements.push(path(cross, { stroke: pen.fill ?? "#000", strokePixels: 5 }));
    }
  }
  return { elements, questions: [{ question: `Which box is ticked for "${label}"?`, answer: chosen }] };
}

function conditionsBox(width: number, height: number): Box {
  return {
    x: MARGIN,
    y: height - CONDITIONS_HEIGHT - 40,
    width: width - 3 * MARGIN - SIGNATURE_WIDTH,
    height: CONDITIONS_HEIGHT,
  };
}

/** Conditions in small print, numbered, in columns; each that hides a number comes with its question. */
function drawConditions(dice: Dice, { x, y, width, height }: Box, { accent }: Look): PageDrawing {
  const style: TextStyle = { face: "sans", sizePixels: 21, fill: "#3a3d44" };
  const hiding = dice.some(CONDITIONS, 4).map(({ text, question, range }) => {
    const number = dice.int(...range);
    return { text: text(number), questions: [{ question, answer: `${number}` }] };
  });
  const plain = dice.some(BOILERPLATE, 8).map((text) => ({ text, questions: [] }));
  const paragraphs = dice.some([...hiding, ...plain], hiding.length + plain.length);

  const columns = Math.max(1, Math.floor(width / 760));
  const columnWidth = (width - (columns - 1) * 50) / columns;
  const wrapped = paragraphs.map(({ text, questions }, index) => ({
    lines: wrapText(`${index + 1}. ${text}`, columnWidth, style),
    questions,
  }));
  const elements = [textPath("Conditions", x, y + 30, { face: "sansBold", sizePixels: 26, fill: accent })];
  const questions: Question[] = [];
  let [column, baseline] = [0, y + 74];
  for (const { lines, questions: asked } of wrapped) {
    if (baseline + (lines.length - 1) * 30 > y + height) [column, baseline] = [column + 1, y + 74];
    if (column === columns) break;
    for (const text of lines) {
      elements.push(textPath(text, x + column * (columnWidth + 50), baseline, style));
      baseline += 30;
    }
    questions.push(...asked);
    baseline += 10;
  }
  return { elements, questions };
}

function drawSignature(dice: Dice, x: number, y: number, { accent, label, pen }: Look): PageDrawing {
  const day = date(dice, 2024, 2025);
  const loops = Array.from(
    { length: 7 },
    () => `q${dice.int(10, 30)} ${dice.int(-90, -30)} ${dice.int(30, 50)} ${dice.int(-30, -12)}`,
  );
  return {
    elements: [
      line(x, y, x + SIGNATURE_WIDTH, y, { stroke: accent, strokePixels: 2.5 }),
      textPath("Date and signature of the applicant", x, y + 34, label),
      textPath(day, x + 10, y - 18, pen),
      path(`M${x + 330} ${y - 24}${loops.join("t28 24")}`, { stroke: pen.fill ?? "#000", strokePixels: 4 }),
    ],
    questions: [{ question: "On which date was the form signed?", answer: day }],
  };
}
