/** Words of synthetic pages: invented people, places and goods, and the forms of dates and amounts. */
import type { Dice } from "./dice.ts";

const FIRST_NAMES = list(`
  Amara, Anton, Beatriz, Bjarne, Chiara, Daniel, Ebba, Elif, Farid, Freya, Goran, Hana, Ines, Ivan, Jana,
  Jonas, Kenji, Leila, Lukas, Maren, Mateo, Mei, Nadia, Noor, Oskar, Paula, Priya, Rafael, Rosa, Samuel,
  Sofie, Tariq, Tomas, Uma, Viktor, Wanda, Yara, Zoe`);
const LAST_NAMES = list(`
  Abara, Albrecht, Andersen, Barros, Bianchi, Castellan, Cermak, Dahl, Demir, Eriksen, Farrow, Fontaine,
  Grabowski, Haddad, Hofmann, Ibarra, Ishikawa, Janssen, Kaplan, Keller, Kovacs, Laurent, Lindqvist,
  Marchetti, Moreau, Nakata, Novak, Okafor, Olsen, Petrov, Quist, Rahman, Rossi, Santos, Schreiber, Sorel,
  Takeda, Tanaka, Ueda, Varga, Weber, Yilmaz, Zielinski`);
const STREETS = list(`
  Alder Lane, Bridge Street, Canal Row, Church Hill, Elm Avenue, Foundry Road, Garden Walk,
  Harbour Street, Kiln Lane, Linden Square, Market Place, Mill Road, North Parade, Orchard Close,
  Quay Street, Station Road, Tanner Street, Victoria Terrace, Weaver Street, Willow Way`);
const TOWNS = list(`
  Ashbourne, Brackwell, Carrow, Dunmere, Eastleigh, Fernhill, Glanton, Hartwick, Ilford, Kestrel,
  Langport, Marlow, Norwood, Oakham, Penrith, Radley, Selby, Thornbury, Upton, Westhaven`);

const MONTHS = list("Jan, Feb, Mar, Apr, May, Jun, Jul, Aug, Sep, Oct, Nov, Dec");

export const GOODS = list(`
  Rye bread, Butter 250 g, Oat milk 1 l, Free-range eggs, Tomatoes, Ground coffee, Green tea, Olive oil,
  Spaghetti 500 g, Basmati rice, Chickpeas, Dark chocolate, Apples 1 kg, Bananas, Cheddar, Yoghurt plain,
  Orange juice, Sparkling water, Dish soap, Paper towels, Batteries AA, Light bulb E27, Envelopes C5,
  Ball pen blue, Notebook A5, Candles, Toothpaste, Shampoo, Plasters, Cat food, Potting soil, Tape 50 mm,
  Honey 350 g, Sea salt, Black pepper, Lentils red, Onions 2 kg, Carrots, Cucumber, Lemons, Raisins,
  Almonds, Crackers, Jam apricot, Mustard, Vinegar, Flour 1 kg, Sugar 1 kg`);

export const SHOPS = list(`
  HARTWICK MARKET, CORNER & SONS, BLUE KETTLE CAFE, NORTHSIDE GROCERS, PAPER MILL STATIONERS,
  QUAY HARDWARE, THE GREEN BASKET, OLD TOWN PHARMACY, LINDEN BAKERY, KESTREL GARDEN CENTRE, HARBOUR DELI,
  STATION KIOSK, TANNER STREET BOOKS, MARLOW ELECTRICALS`);

export function lastName(dice: Dice): string {
  return dice.pick(LAST_NAMES);
}

export function firstName(dice: Dice): string {
  return dice.pick(FIRST_NAMES);
}

/** Returns a name as lists have it: "N. Okafor". */
export function shortName(dice: Dice): string {
  return `${firstName(dice)[0]}. ${lastName(dice)}`;
}

export function street(dice: Dice): string {
  return `${dice.int(1, 240)} ${dice.pick(STREETS)}`;
}

export function town(dice: Dice): string {
  return dice.pick(TOWNS);
}

/** Returns a day of the given years, in one of three forms that cannot be misread. */
export function date(dice: Dice, fromYear: number, toYear: number): string {
  const [year, month, day] = [dice.int(fromYear, toYear), dice.int(1, 12), dice.int(1, 28)];
  const [mm, dd] = [String(month).padStart(2, "0"), String(day).padStart(2, "0")];
  return dice.pick([
    `${year}-${mm}-${dd}`,
    `${day} ${MONTHS[month - 1]} ${year}`,
    `${dd} ${MONTHS[month - 1]} ${year}`,
  ]);
}

export function time(dice: Dice): string {
  return `${String(dice.int(6, 22)).padStart(2, "0")}:${String(dice.int(0, 59)).padStart(2, "0")}`;
}

export function phone(dice: Dice): string {
  return dice.code("0### ### ####");
}

/** Returns cents as "1,204.50". */
export function money(cents: number): string {
  return (cents / 100).toLocaleString("en-US", { minimumFractionDigits: 2 });
}

/** Returns the parts of a text between commas. */
function list(text: string): string[] {
  return text.trim().split(/,\s+/);
}
