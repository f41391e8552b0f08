/** Contents of synthetic forms: sections of fields, choices to tick, and conditions in small print. */
import type { Dice } from "./dice.ts";
import { date, firstName, lastName, money, phone, street, time, town } from "./words.ts";

/** A field's label, how wide it is against its neighbours, and what somebody writes into it. */
export type Field = readonly [label: string, share: number, fill: (dice: Dice) => string];

export interface Section {
  title: string;
  rows: readonly (readonly Field[])[];
}

export const PERSON: Section = {
  title: "Applicant",
  rows: [
    [
      ["Surname", 3, lastName],
      ["First name", 3, firstName],
      ["Date of birth", 2, (dice) => date(dice, 1945, 2004)],
    ],
    [
      ["Place of birth", 3, town],
      [
        "Nationality",
        2,
        (dice) => dice.pick(["Danish", "Irish", "Italian", "Kenyan", "Japanese", "Polish", "Turkish"]),
      ],
      ["Identity card no.", 3, (dice) => dice.code("A## ### ###")],
    ],
    [
      ["Telephone", 3, phone],
      ["E-mail", 5, (dice) => `box.${dice.code("####")}@example.org`],
    ],
  ],
};

export const SECTIONS: readonly Section[] = [
  {
    title: "Address",
    rows: [
      [
        ["Street and number", 4, street],
        ["Flat", 1, (dice) => dice.code("#A")],
        ["Postcode", 2, (dice) => dice.code("AA# #AA")],
      ],
      [
        ["Town", 3, town],
        ["Resident since", 2, (dice) => date(dice, 1990, 2023)],
        ["Previous postcode", 2, (dice) => dice.code("AA# #AA")],
      ],
    ],
  },
  {
    title: "Employment",
    rows: [
      [
        ["Employer", 4, (dice) => `${lastName(dice)} & ${lastName(dice)} Ltd`],
        ["Employee no.", 2, (dice) => dice.code("#####-A")],
      ],
      [
        [
          "Occupation",
          3,
          (dice) =>
            dice.pick(["Bookbinder", "Electrician", "Nurse", "Surveyor", "Teacher", "Translator", "Welder"]),
        ],
        ["Hours a week", 2, (dice) => `${dice.int(16, 45)}`],
        ["Monthly gross pay", 3, (dice) => money(dice.int(180_000, 690_000))],
      ],
    ],
  },
  {
    title: "Bank account",
    rows: [
      [
        ["IBAN", 5, (dice) => dice.code("DE## #### #### #### ####")],
        ["BIC", 3, (dice) => dice.code("AAAADE##")],
      ],
      [
        ["Account holder", 4, (dice) => `${firstName(dice)} ${lastName(dice)}`],
        ["First debit on", 3, (dice) => date(dice, 2024, 2025)],
      ],
    ],
  },
  {
    title: "Vehicle",
    rows: [
      [
        [
          "Make and model",
          3,
          (dice) =>
            `${dice.pick(["Alvis", "Borgward", "Jowett", "Matra", "Saab", "Simca"])} ${dice.code("###")}`,
        ],
        ["Registration", 2, (dice) => dice.code("AA## AAA")],
        ["First registered", 3, (dice) => date(dice, 2005, 2023)],
      ],
      [
        ["Chassis no.", 4, (dice) => dice.code("WA#AA##A#A######")],
        ["Mileage", 2, (dice) => dice.int(3_000, 240_000).toLocaleString("en-US")],
        ["Colour", 2, (dice) => dice.pick(["Black", "Dark blue", "Green", "Grey", "Red", "White"])],
      ],
    ],
  },
  {
    title: "Cover",
    rows: [
      [
        ["Policy no.", 3, (dice) => dice.code("P##-####-###")],
        ["Class", 1, (dice) => dice.code("A#")],
        ["Yearly premium", 3, (dice) => money(dice.int(12_000, 180_000))],
      ],
      [
        ["Excess", 2, (dice) => money(dice.int(1, 20) * 5_000)],
        ["Valid from", 3, (dice) => date(dice, 2024, 2025)],
        ["Agent", 3, (dice) => `${firstName(dice)} ${lastName(dice)}`],
      ],
    ],
  },
  {
    title: "Delivery",
    rows: [
      [
        ["Parcel no.", 4, (dice) => dice.code("## #### #### ##")],
        ["Weight in kg", 2, (dice) => `${dice.int(1, 30)}.${dice.int(0, 9)}`],
        ["Pieces", 1, (dice) => `${dice.int(1, 9)}`],
      ],
      [
        ["Collected by", 3, (dice) => `${firstName(dice)} ${lastName(dice)}`],
        ["Collected on", 2, (dice) => date(dice, 2023, 2025)],
        ["Collected at", 2, time],
      ],
    ],
  },
  {
    title: "Doctor and health fund",
    rows: [
      [
        ["Doctor", 3, (dice) => `Dr ${lastName(dice)}`],
        ["Practice no.", 2, (dice) => dice.code("#######")],
        ["Surgery telephone", 3, phone],
      ],
      [
        ["Health fund", 3, (dice) => `${town(dice)} Mutual`],
        ["Member no.", 3, (dice) => dice.code("A#########")],
        ["Blood group", 1, (dice) => dice.pick(["A+", "A-", "B+", "0+", "0-", "AB+"])],
      ],
    ],
  },
];

export const CHOICES: readonly (readonly [question: string, answers: readonly string[]])[] = [
  ["Marital status", ["single", "married", "divorced", "widowed"]],
  ["Payment", ["monthly", "quarterly", "half-yearly", "yearly"]],
  ["Language of letters", ["Danish", "English", "French", "German", "Polish"]],
  ["Send decision by", ["post", "e-mail", "collection in person"]],
  ["Type of application", ["first", "renewal", "change", "replacement"]],
  ["Household size", ["1", "2", "3", "4", "5 or more"]],
];

export const TITLES = [
  "Application for membership",
  "Declaration of residence",
  "Claim for damages",
  "Request for a permit",
  "Registration of a vehicle",
  "Notice of change of address",
  "Application for allowance",
  "Enrolment for evening courses",
] as const;

/** A condition that hides a number, and the question whose answer the number is. */
export const CONDITIONS: readonly {
  text: (number: number) => string;
  question: string;
  range: readonly [min: number, max: number];
}[] = [
  {
    text: (days) => `The applicant may withdraw this form in writing within ${days} days of signing it.`,
    question: "Within how many days may the form be withdrawn?",
    range: [7, 60],
  },
  {
    text: (euros) => `For notice given late a fee of EUR ${euros} is added to the next account.`,
    question: "What fee in EUR is charged for late notice?",
    range: [12, 95],
  },
  {
    text: (years) => `The office keeps the form and what is attached to it for ${years} years.`,
    question: "For how many years does the office keep the form?",
    range: [3, 30],
  },
  {
    text: (weeks) => `A decision is sent within ${weeks} weeks of the day on which the form is complete.`,
    question: "Within how many weeks is a decision sent?",
    range: [2, 16],
  },
  {
    text: (copies) => `Hand in ${copies} signed copies; one is returned with the stamp of the office.`,
    question: "How many signed copies must be handed in?",
    range: [2, 6],
  },
];

/** Conditions that hide nothing. */
export const BOILERPLATE = [
  "Write in capitals and in ink that doesn't fade.",
  "Fields that don't apply are crossed out, not left empty.",
  "Whoever signs confirms that what is stated is complete and true.",
  "Changes must be reported without delay to the office that is named above.",
  "Statements made by mistake can be put right until the decision has been sent.",
  "Where the space isn't enough, continue on a separate sheet and write the number of the form on it.",
  "Costs of letters, copies and translations are borne by the applicant unless the law says otherwise.",
  "The office may ask other offices for what it needs to check the statements.",
  "An appeal doesn't delay the duty to pay.",
] as const;
