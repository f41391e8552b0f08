/**
 * Draws a page full of one table in small print: stock, departures, measurements, results or pay, with
 * footnotes.
 */
import { type TextStyle, textPath, textWidth } from "../drawing/lettering.ts";
import { type Box, line, rect } from "../drawing/svg.ts";
import type { Dice } from "./dice.ts";
import type { PageDrawing, PageSize, Question } from "./drawing.ts";
import { date, GOODS, lastName, money, shortName, time, town } from "./words.ts";

interface Column {
  header: string;
  /** Width against the other columns. */
  share: number;
  align: "start" | "end";
  make: (dice: Dice) => string;
}

interface TableKind {
  title: (dice: Dice) => string;
  /** Names a row; every key of a page is different. */
  key: Column;
  columns: readonly Column[];
  /** Index of the column that the rows are in order of, the key's being 0. */
  sortBy: number;
  footnotes: readonly string[];
}

const left = (header: string, share: number, make: Column["make"]): Column => ({
  header,
  share,
  align: "start",
  make,
});
const right = (header: string, share: number, make: Column["make"]): Column => ({
  header,
  share,
  align: "end",
  make,
});

const KINDS: readonly TableKind[] = [
  {
    title: (dice) => `Stock list, warehouse ${town(dice)}`,
    key: left("Item", 3, (dice) => dice.code("A-####")),
    columns: [
      left("Description", 5, (dice) => dice.pick(GOODS)),
      left("Shelf", 2, (dice) => dice.code("##A")),
      right("On hand", 2, (dice) => `${dice.int(0, 999)}`),
      right("Ordered", 2, (dice) => `${dice.int(0, 480)}`),
      right("Unit price", 3, (dice) => money(dice.int(15, 24_999))),
      left("Last counted", 3, (dice) => date(dice, 2024, 2025)),
    ],
    sortBy: 0,
    footnotes: [
      "Prices in EUR without VAT.",
      "Items counted more than a year ago are counted anew before the next order.",
    ],
  },
  {
    title: (dice) => `Departures from ${town(dice)} Central`,
    key: left("Train", 2, (dice) => dice.code("AA ####")),
    columns: [
      left("Departs", 2, time),
      left("Destination", 4, town),
      left("Via", 4, town),
      right("Platform", 2, (dice) => `${dice.int(1, 18)}`),
      left("Takes", 3, (dice) => `${dice.int(0, 5)} h ${dice.int(10, 59)} min`),
      left("Runs", 3, (dice) => dice.pick(["daily", "Mon-Fri", "Sat, Sun", "Mon-Sat", "Fri only"])),
    ],
    sortBy: 1,
    footnotes: [
      "Times are local.",
      "On public holidays trains run as on Sundays.",
      "Bicycles need a reservation on trains whose number begins with R.",
    ],
  },
  {
    title: (dice) => `Laboratory report ${dice.code("##/####")}`,
    key: left("Sample", 3, (dice) => dice.code("AA#####")),
    columns: [
      left("Taken on", 3, (dice) => date(dice, 2024, 2025)),
      right("pH", 2, (dice) => `${dice.int(5, 8)}.${dice.int(10, 99)}`),
      right("Nitrate mg/l", 3, (dice) => `${dice.int(1, 60)}.${dice.int(0, 9)}`),
      right("Lead µg/l", 3, (dice) => `${dice.int(0, 24)}.${dice.int(0, 9)}`),
      right("Turbidity", 3, (dice) => `0.${dice.int(10, 99)}`),
      left("Analyst", 3, shortName),
    ],
    sortBy: 0,
    footnotes: ["Turbidity in NTU.", "Values under the limit of detection are given as that limit."],
  },
  {
    title: (dice) => `Results, ${town(dice)} half marathon`,
    key: right("No.", 2, (dice) => `${dice.int(100, 9999)}`),
    columns: [
      left("Runner", 4, shortName),
      left("Club", 4, (dice) => `${town(dice)} AC`),
      left("Class", 2, (dice) => dice.pick(["M20", "M30", "M40", "M50", "W20", "W30", "W40", "W50"])),
      right("10 km", 2, (dice) => `${dice.int(31, 58)}:${dice.code("0#")}`),
      right("Finish", 3, (dice) => `1:${dice.int(10, 59)}:${dice.int(10, 59)}`),
    ],
    sortBy: 5,
    footnotes: ["Times are net.", "Protests must be lodged within one hour of the last finish."],
  },
  {
    title: (dice) =>
      `Payroll ${dice.pick(["January", "April", "July"])} ${dice.int(2022, 2025)}, plant ${town(dice)}`,
    key: left("Staff no.", 3, (dice) => dice.code("#####")),
    columns: [
      left("Name", 4, (dice) => `${lastName(dice)}, ${dice.code("A")}.`),
      left("Dept.", 2, (dice) => dice.code("A##")),
      right("Hours", 2, (dice) => `${dice.int(60, 190)}.${dice.pick(["0", "5"])}`),
      right("Gross", 3, (dice) => money(dice.int(120_000, 780_000))),
      right("Tax", 3, (dice) => money(dice.int(14_000, 190_000))),
      left("Paid on", 3, (dice) => date(dice, 2024, 2025)),
    ],
    sortBy: 0,
    footnotes: ["Amounts in EUR.", "Overtime is paid with the account of the following month."],
  },
];

const MARGIN = 110;
const BLOCK_GAP = 80;
const TABLE_TOP = 250;
const FOOTNOTES_HEIGHT = 150;
const CELL_PADDING = 20;

export function drawTable(dice: Dice, { width, height }: PageSize): PageDrawing {
  const kind = dice.pick(KINDS);
  const accent = dice.pick(["#23405f", "#5b2b3f", "#2f5a45", "#3c3c46", "#70501a"]);
  const rowHeight = dice.int(34, 46);
  const blocks = Math.max(1, Math.round(width / 1800));
  const blockWidth = (width - 2 * MARGIN - (blocks - 1) * BLOCK_GAP) / blocks;
  const rowsPerBlock = Math.floor((height - TABLE_TOP - FOOTNOTES_HEIGHT - 60) / rowHeight) - 1;
  const title = kind.title(dice);
  const wished: TextStyle = { face: "sansBold", sizePixels: 64, fill: accent };
  const roomRatio = Math.min(1, (width - 2 * MARGIN) / textWidth(title, wished));
  const titleStyle = { ...wished, sizePixels: wished.sizePixels * roomRatio };
  const records = makeRecords(dice, kind, blocks * rowsPerBlock);
  const elements = [
    rect({ x: 0, y: 0, width, height }, { fill: dice.pick(["#ffffff", "#fffef9", "#fafbfc"]) }),
    textPath(title, MARGIN, 140, titleStyle),
    textPath(`${records.length} entries, sheet ${dice.int(1, 9)} of 9`, MARGIN, 200, small(accent)),
    textPath(`Printed ${date(dice, 2025, 2025)}`, width - MARGIN, 200, { ...small(accent), anchor: "end" }),
  ];
  for (let block = 0; block < blocks; block++) {
    const box = {
      x: MARGIN + block * (blockWidth + BLOCK_GAP),
      y: TABLE_TOP,
      width: blockWidth,
      height: rowHeight,
    };
    const shown = records.slice(block * rowsPerBlock, (block + 1) * rowsPerBlock);
    elements.push(...drawBlock(kind, shown, box, accent));
  }
  for (const [index, note] of kind.footnotes.entries()) {
    elements.push(
      textPath(`${index + 1}) ${note}`, MARGIN, height - FOOTNOTES_HEIGHT + index * 34, small("#44474d")),
    );
  }
  return {
    elements,
    questions: [
      { question: "How many entries does the table have?", answer: `${records.length}` },
      ...askCells(dice, kind, records),
    ],
  };
}

/** Rows of cells, the key first. */
function makeRecords(dice: Dice, { key, columns, sortBy }: TableKind, count: number): string[][] {
  const keys = new Set<string>();
  while (keys.size < count) keys.add(key.make(dice));
  const records = [...keys].map((name) => [name, ...columns.map((column) => column.make(dice))]);
  const cell = (record: string[]) => record[sortBy] ?? "";
  return records.sort((a, b) => Number(cell(a) > cell(b)) - Number(cell(a) < cell(b)));
}

function askCells(dice: Dice, { key, columns }: TableKind, records: string[][]): Question[] {
  return dice.some(records, 8).map((cells) => {
    const index = dice.int(0, columns.length - 1);
    const question = `What is "${columns[index]?.header}" of "${key.header}" ${cells[0]}?`;
    return { question, answer: cells[index + 1] ?? "" };
  });
}

function drawBlock(kind: TableKind, records: string[][], box: Box, accent: string): string[] {
  const columns = [kind.key, ...kind.columns];
  const style: TextStyle = { face: "condensed", sizePixels: Math.round(box.height * 0.62), fill: "#24272c" };
  const head: TextStyle = { ...style, face: "condensedBold", fill: "#fff" };
  const elements = [
    rect(box, { fill: accent }),
    ...drawCells(
      columns,
      columns.map(({ header }) => header),
      box,
      head,
    ),
  ];
  for (const [index, cells] of records.entries()) {
    const row = { ...box, y: box.y + (index + 1) * box.height };
    if (index % 2 === 1) elements.push(rect(row, { fill: accent, opacity: 0.07 }));
    elements.push(...drawCells(columns, cells, row, style));
  }
  const bottom = box.y + (records.length + 1) * box.height;
  elements.push(line(box.x, bottom, box.x + box.width, bottom, { stroke: accent, strokePixels: 3 }));
  return elements;
}

function drawCells(
  columns: readonly Column[],
  cells: readonly string[],
  row: Box,
  style: TextStyle,
): string[] {
  const unit = row.width / columns.reduce((sum, { share }) => sum + share, 0);
  let x = row.x;
  return columns.map(({ share, align }, index) => {
    const text = cells[index] ?? "";
    const room = share * unit - 2 * CELL_PADDING;
    const sizePixels = Math.min(
      style.sizePixels,
      (style.sizePixels * room) / Math.max(1, textWidth(text, style)),
    );
    const at = align === "start" ? x + CELL_PADDING : x + share * unit - CELL_PADDING;
    x += share * unit;
    return textPath(text, at, row.y + row.height * 0.72, { ...style, sizePixels, anchor: align });
  });
}

function small(fill: string): TextStyle {
  return { face: "sans", sizePixels: 24, fill };
}
