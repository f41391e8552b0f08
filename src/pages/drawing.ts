/** The parts of a synthetic page. */

export interface PageSize {
  width: number;
  height: number;
}

export interface Question {
  question: string;
  answer: string;
}

/** A page as SVG elements, and the questions about it. */
export interface PageDrawing {
  elements: string[];
  questions: Question[];
}
