/**
 * Where messages lie in what a chat template writes of a conversation. Their contents are rendered between two signs, and
 * what stands between two messages is compared with what the template writes of the first of them alone.
 */
import { MicrogptError } from "../../device/errors.ts";
import type { TemplateMessage } from "./chat_template.ts";
import { commonLength } from "./script.ts";

/** Characters that neither the template nor a message has. */
export interface Signs {
  /** stands before the content of a message */
  begin: string;
  /** and behind it */
  end: string;
  /** a message of the user begins, with all that the template writes of it */
  question: string;
  /** another message begins */
  other: string;
}

/** Renders a conversation. */
type Write = (messages: readonly TemplateMessage[]) => string;

/** New borders that are looked for in one conversation: each is a rendering of what comes before it. */
const MAX_NEW_BORDERS = 20;

/** Borders that are remembered. Templates have a few; white space around messages makes more of them. */
const MAX_BORDERS = 1000;

/** Finds the messages in what a template writes. */
export class TemplateTurns {
  readonly #write: Write;
  /** what a border does not cut */
  readonly #special: readonly string[];
  /** how far into what stands between two messages the second begins, undefined where that cannot be told */
  readonly #borders = new Map<string, number | undefined>();

  /** @param special texts of special tokens */
  constructor(write: Write, special: readonly string[]) {
    this.#write = write;
    this.#special = special;
  }

  /**
   * What the template writes, with signs: around the messages that it writes as they are, and where each but the first of
   * these begins.
   * @param answers what the assistant says must be found
   * @returns the text, and the messages with signs, in order
   * @throws {MicrogptError} when `answers` and the template changes what the assistant says, or it refuses or fails
   */
  signed(
    messages: readonly TemplateMessage[],
    signs: Signs,
    answers: boolean,
  ): { text: string; found: readonly TemplateMessage[] } {
    const plain = this.#write(messages);
    const isAnswer = ({ role }: TemplateMessage) => role === "assistant";
    // templates may leave out a message without text, or put what the system says elsewhere
    const said = messages.filter(({ content }) => content.trim() !== "");
    const talk = said.filter(({ role }) => role !== "system");
    let looked = 0;
    for (const found of [messages, said, talk, messages.filter(isAnswer), said.filter(isAnswer)]) {
      const known = new Set(found);
      const write: Write = (some) =>
        this.#write(some.map((message) => known.has(message) ? between(message, signs) : message));
      // before, in, between and behind the messages
      const parts = write(messages).split(new RegExp(`[${signs.begin}${signs.end}]`, "u"));
      const asTheyAre = parts.length === 2 * found.length + 1 && parts.join("") === plain &&
        found.every(({ content }, i) => parts[2 * i + 1] === content.trim());
      if (!asTheyAre) continue;
      let [text, i] = ["", 0];
      messages.forEach((message, place) => {
        if (!known.has(message)) return;
        const [gap, said] = [parts[2 * i]!, parts[2 * i + 1]!];
        const previous = messages[place - 1];
        const border = previous && known.has(previous)
          ? this.#border(gap, [previous, message], () => {
            if (looked++ === MAX_NEW_BORDERS) return undefined;
            const before = write(messages.slice(0, place)).split(signs.end);
            // a template may write nothing of the first message before the second has come
            return before.length === i + 1 ? before.at(-1) : undefined;
          })
          : undefined;
        const sign = message.role === "user" ? signs.question : signs.other;
        text += border === undefined ? gap : gap.slice(0, border) + sign + gap.slice(border);
        text += signs.begin + said + signs.end;
        i++;
      });
      return { text: text + parts.at(-1)!, found };
    }
    if (!answers) return { text: plain, found: [] };
    throw new MicrogptError("the model's chat template changes what the assistant says", {
      hint: "train with `loss` all",
    });
  }

  /**
   * How far into what stands between two messages the second begins.
   * @param behind what the template writes behind the first where nothing follows; undefined where that cannot be told
   */
  #border(
    gap: string,
    [first, second]: readonly [TemplateMessage, TemplateMessage],
    behind: () => string | undefined,
  ): number | undefined {
    const key = [first.role, second.role, gap].join();
    if (this.#borders.has(key)) return this.#borders.get(key);
    let border: number | undefined;
    try {
      const text = behind();
      const common = text === undefined ? 0 : commonLength(text, gap);
      // one that differs from its start was written otherwise
      if (common > 0 || text === "") border = this.#beforeToken(gap, common);
    } catch (error) {
      if (!(error instanceof MicrogptError)) throw error; // it takes no conversation that ends there
    }
    if (this.#borders.size >= MAX_BORDERS) this.#borders.clear();
    this.#borders.set(key, border);
    return border;
  }

  /** A place in a text, moved in front of the special token that it would cut. */
  #beforeToken(text: string, place: number): number {
    for (const token of this.#special) {
      const at = text.indexOf(token, Math.max(0, place - token.length + 1));
      if (at >= 0 && at < place) return at;
    }
    return place;
  }
}

/** A message with signs around its text, inside the white space at its ends, which templates cut off. */
function between({ role, content }: TemplateMessage, { begin, end }: Signs): TemplateMessage {
  const text = content.trim();
  const at = content.length - content.trimStart().length;
  return { role, content: content.slice(0, at) + begin + text + end + content.slice(at + text.length) };
}
