/** Draws a page of till receipts that lie side by side on a scanner. */
import { type TextStyle, textPath } from "../drawing/lettering.ts";
import { line, path, rect, turned } from "../drawing/svg.ts";
import type { Dice } from "./dice.ts";
import type { PageDrawing, PageSize, Question } from "./drawing.ts";
import { date, GOODS, money, phone, SHOPS, street, time, town } from "./words.ts";

const SLIP_WIDTH = 760;
const SLIP_GAP = 130;
const SLIP_PADDING = 48;
const LINE_HEIGHT = 41;
const HEAD_AND_FOOT_HEIGHT = 1000;

/** One printed line: its parts stand at the left and the right edge, or in the middle. */
type SlipLine =
  | { at: "edges"; left: string; right: string; bold?: boolean }
  | { at: "middle"; text: string; sizePixels?: number; bold?: boolean }
  | { at: "rule" }
  | { at: "barcode"; digits: string };

export function drawReceipts(dice: Dice, { width, height }: PageSize): PageDrawing {
  const count = Math.max(1, Math.floor((width - SLIP_GAP) / (SLIP_WIDTH + SLIP_GAP)));
  const step = (width - count * SLIP_WIDTH) / (count + 1) + SLIP_WIDTH;
  const elements = [
    rect({ x: 0, y: 0, width, height }, { fill: dice.pick(["#c9ccd1", "#b9b2a8", "#d8d9d6", "#aab3b8"]) }),
  ];
  const questions: Question[] = [];
  for (const [column, shop] of dice.some(SHOPS, count).entries()) {
    const slip = printSlip(dice, shop, height);
    elements.push(drawSlip(dice, slip.lines, step * (column + 1) - SLIP_WIDTH, height));
    questions.push(...slip.questions);
  }
  return { elements, questions };
}

function printSlip(dice: Dice, shop: string, height: number): { lines: SlipLine[]; questions: Question[] } {
  const items = buy(dice, Math.floor((height - HEAD_AND_FOOT_HEIGHT) / LINE_HEIGHT));
  const totalCents = items.reduce((sum, { cents, count }) => sum + cents * count, 0);
  const vatCents = Math.round((totalCents * 20) / 120);
  const [day, card, number] = [date(dice, 2021, 2025), dice.code("####"), dice.code("##-######")];
  const printed: SlipLine[] = items.flatMap(({ name, cents, count }) => [
    { at: "edges", left: name, right: money(cents * count) },
    ...(count > 1 ? [{ at: "edges" as const, left: `   ${count} x ${money(cents)}`, right: "" }] : []),
  ]);
  const single = dice.pick(items.filter(({ count }) => count === 1).concat(items[0] ?? []));
  return {
    lines: [
      ...head(dice, shop, day, number),
      ...printed,
      ...foot(dice, { totalCents, vatCents, card, number }),
    ],
    questions: [
      { question: `What is the total on the receipt from ${shop}?`, answer: money(totalCents) },
      { question: `How much VAT does the receipt from ${shop} include?`, answer: money(vatCents) },
      { question: `On which date was the receipt from ${shop} printed?`, answer: day },
      { question: `What is the number of the receipt from ${shop}?`, answer: number },
      { question: `What are the last four digits of the card used at ${shop}?`, answer: card },
      {
        question: `How much was paid for "${single.name}" at ${shop}?`,
        answer: money(single.cents * single.count),
      },
    ],
  };
}

/** Returns bought goods, in at most `linesMax` printed lines; several of a kind take two lines. */
function buy(dice: Dice, linesMax: number) {
  const wanted = dice.some(GOODS, dice.int(12, 30)).map((name) => ({
    name,
    cents: dice.int(45, 1199),
    count: dice.chance(0.3) ? dice.int(2, 6) : 1,
  }));
  let lines = 0;
  return wanted.filter(({ count }) => {
    lines += count > 1 ? 2 : 1;
    return lines <= linesMax;
  });
}

function head(dice: Dice, shop: string, day: string, number: string): SlipLine[] {
  return [
    { at: "middle", text: shop, sizePixels: 44, bold: true },
    { at: "middle", text: `${street(dice)}, ${town(dice)}`, sizePixels: 24 },
    { at: "middle", text: `Tel ${phone(dice)}   VAT ${dice.code("AA ### ### ##")}`, sizePixels: 24 },
    { at: "rule" },
    { at: "edges", left: day, right: time(dice) },
    { at: "edges", left: `Till ${dice.int(1, 12)}`, right: `No. ${number}` },
    { at: "rule" },
  ];
}

function foot(
  dice: Dice,
  {
    totalCents,
    vatCents,
    card,
    number,
  }: { totalCents: number; vatCents: number; card: string; number: string },
): SlipLine[] {
  return [
    { at: "rule" },
    { at: "edges", left: "Net", right: money(totalCents - vatCents) },
    { at: "edges", left: "VAT 20 %", right: money(vatCents) },
    { at: "edges", left: "TOTAL EUR", right: money(totalCents), bold: true },
    { at: "rule" },
    {
      at: "edges",
      left: dice.pick(["VISA DEBIT", "MASTERCARD", "MAESTRO"]),
      right: `**** **** **** ${card}`,
    },
    { at: "edges", left: "Authorised", right: dice.code("A#####") },
    {
      at: "middle",
      text: dice.pick(["Thank you for your visit", "Please keep this receipt", "See you soon"]),
    },
    { at: "middle", text: "Goods can be returned within 30 days with this receipt.", sizePixels: 20 },
    { at: "barcode", digits: `${number.replace("-", "")}${card}` },
  ];
}

function drawSlip(dice: Dice, lines: SlipLine[], x: number, pageHeight: number): string {
  const slipHeight = lines.reduce((sum, slipLine) => sum + heightOf(slipLine), 2 * SLIP_PADDING);
  const y = dice.int(40, Math.max(40, pageHeight - slipHeight - 40));
  const ink = dice.pick(["#2a2a2e", "#33363f", "#4a4a52", "#3b3550"]);
  const paper = { x, y, width: SLIP_WIDTH, height: slipHeight };
  const elements = [
    rect({ ...paper, x: x + 9, y: y + 11 }, { fill: "#000", opacity: 0.16 }),
    rect(paper, { fill: dice.pick(["#fdfdfb", "#fbf9f2", "#f7f8fa"]) }),
  ];
  let lineY = y + SLIP_PADDING;
  for (const slipLine of lines) {
    elements.push(drawLine(slipLine, x + SLIP_PADDING, lineY, ink));
    lineY += heightOf(slipLine);
  }
  return turned(elements.join(""), dice.int(-12, 12) / 10, x + SLIP_WIDTH / 2, y + slipHeight / 2);
}

function heightOf(slipLine: SlipLine): number {
  switch (slipLine.at) {
    case "edges":
      return LINE_HEIGHT;
    case "middle":
      return (slipLine.sizePixels ?? 28) * 1.5;
    case "rule":
      return 26;
    case "barcode":
      return 150;
  }
}

function drawLine(slipLine: SlipLine, left: number, top: number, fill: string): string {
  const right = left + SLIP_WIDTH - 2 * SLIP_PADDING;
  const style = (sizePixels: number, bold = false): TextStyle => ({
    face: bold ? "monoBold" : "mono",
    sizePixels,
    fill,
  });
  switch (slipLine.at) {
    case "edges": {
      const edge = style(slipLine.bold ? 32 : 28, slipLine.bold);
      const baseline = top + LINE_HEIGHT * 0.75;
      return (
        textPath(slipLine.left, left, baseline, edge) +
        textPath(slipLine.right, right, baseline, { ...edge, anchor: "end" })
      );
    }
    case "middle": {
      const { text, sizePixels = 28, bold } = slipLine;
      return textPath(text, (left + right) / 2, top + sizePixels, {
        ...style(sizePixels, bold),
        anchor: "middle",
      });
    }
    case "rule":
      return line(left, top + 12, right, top + 12, { stroke: fill, strokePixels: 2, opacity: 0.7 });
    case "barcode":
      return barcode(slipLine.digits, left, top + 20, right - left, fill);
  }
}

/** Draws bars whose widths follow the digits, and the digits under them; no real symbology. */
function barcode(digits: string, left: number, top: number, width: number, fill: string): string {
  const widths = [...digits].flatMap((digit) => [1 + (Number(digit) % 3), 1 + (Number(digit) % 2), 2, 1]);
  const unit = width / widths.reduce((sum, bar) => sum + bar, 0);
  let x = left;
  let bars = "";
  for (const [index, bar] of widths.entries()) {
    if (index % 2 === 0)
      bars += `M${x.toFixed(1)} ${top.toFixed(1)}h${(bar * unit).toFixed(1)}v84h${(-bar * unit).toFixed(1)}z`;
    x += bar * unit;
  }
  const style: TextStyle = { face: "mono", sizePixels: 22, fill, anchor: "middle" };
  return path(bars, { fill }) + textPath(digits, left + width / 2, top + 110, style);
}
