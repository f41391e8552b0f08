/** What a synthetic page is made of. */

export interface PageSize {
  width: number;
  height: number;
}

export interface Question {
  question: string;
  answer: string;
}

/** A page as SVG elements, and what can be asked about it. */
export interface PageDrawing {
  elements: string[];
  questions: Question[];
}
