/** The text of a record: which field or column holds it. */

import { describe } from "../chat.ts";
import { MicrogptError } from "../../device/errors.ts";
import type { Emit } from "./cutter.ts";
import type { Tally } from "./tally.ts";

/** Names that fields with the text have. Earlier ones are not better: where there are two, the person must choose. */
const USUAL_NAMES = ["text", "content", "document", "body", "article", "story", "abstract", "passage"];

/** Records that are looked at before a field is chosen. */
const SAMPLE = 20;

/** Takes records and hands out the texts of their field. */
export class TextField {
  /** The field's name; undefined where records are texts themselves, or none has been chosen yet. */
  field: string | undefined;
  readonly #name: string;
  readonly #emit: Emit<string>;
  readonly #tally: Tally;
  readonly #given: boolean;
  #chosen = false;
  /** Records that came before a field was chosen. */
  #waiting: [record: unknown, line: number][] = [];

  /**
   * @param name the file, for messages
   * @param field the one that was asked for
   */
  constructor(name: string, emit: Emit<string>, tally: Tally, field?: string) {
    this.#name = name;
    this.#emit = emit;
    this.#tally = tally;
    this.field = field;
    this.#given = field !== undefined;
  }

  /** @param line the one that the record begins in; in formats without lines, its number */
  push(record: unknown, line: number): void {
    if (this.#chosen) return this.#take(record, line);
    this.#waiting.push([record, line]);
    if (this.#waiting.length >= SAMPLE) this.#choose();
  }

  end(): void {
    if (!this.#chosen && this.#waiting.length > 0) this.#choose();
  }

  #choose(): void {
    this.#chosen = true;
    const objects = this.#waiting.map(([record]) => record).filter(isObject);
    if (objects.length > 0) this.#checkField(objects);
    for (const [record, line] of this.#waiting) this.#take(record, line);
    this.#waiting = [];
  }

  #checkField(records: Record<string, unknown>[]): void {
    const names = [...new Set(records.flatMap((record) => Object.keys(record)))];
    const texts = names.filter((name) => records.some((record) => typeof valueOf(record, name) === "string"));
    this.field = chooseField(this.#name, names, texts, this.#given ? this.field : undefined);
  }

  #take(record: unknown, line: number): void {
    const where = () => `${this.#name} line ${line}`;
    if (typeof record !== "string" && !isObject(record)) {
      throw new MicrogptError(`${where()}: expected an object or a text, got ${describe(record)}`, {
        hint: "each record is an object with the text in one of its fields, or the text itself",
      });
    }
    const text = typeof record === "string" ? record : valueOf(record, this.field!);
    if (typeof text !== "string" || text.trim() === "") {
      return this.#tally.skip("no text in the field", where);
    }
    if (!text.isWellFormed()) {
      throw new MicrogptError(`${where()}: expected well-formed Unicode, got a lone surrogate`);
    }
    this.#emit(text, line);
  }
}

/**
 * Chooses the field that holds the text: the one that was asked for, the one with a usual name, or the only one.
 * @param name the file, for messages
 * @param names of all fields
 * @param texts names of those that hold text
 * @throws {MicrogptError} when there is none, or more than one
 */
export function chooseField(name: string, names: string[], texts: string[], given?: string): string {
  if (given !== undefined) {
    if (names.includes(given)) return given;
    throw new MicrogptError(`${name} has no field ${shown([given])}`, { hint: `it has ${shown(names)}` });
  }
  const usual = texts.filter((text) => USUAL_NAMES.includes(text.toLowerCase()));
  const candidates = usual.length > 0 ? usual : texts;
  if (candidates.length === 1) return candidates[0]!;
  if (candidates.length === 0) {
    throw new MicrogptError(`${name} has no field that holds text: its fields are ${shown(names)}`, {
      hint: "conversations are read with `chat`",
    });
  }
  throw new MicrogptError(`${name}: which field holds the text? ${shown(candidates)} do`, {
    hint: "name it with `field`; conversations are read with `chat`",
  });
}

/** The names in quotes, as far as they may be printed. */
export function shown(names: readonly string[]): string {
  const first = names.slice(0, 8).map((name) => describe(name)).join(", ");
  return names.length > 8 ? `${first} and ${names.length - 8} more` : first;
}

function valueOf(record: Record<string, unknown>, name: string): unknown {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
