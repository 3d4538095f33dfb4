/** A look at a corpus, for people. */
import { renderCleanup } from "./cleanup.ts";
import type { Inspection } from "./inspection.ts";
import { renderLengths } from "./lengths.ts";

/**
 * The inspection as lines of text.
 * @param unit what one document is called, in the plural
 */
export function renderInspection(inspection: Inspection, unit: string): string[] {
  const { tokens, vocab_size, data, alphabet, cleanup, copiesExact, documents, long, examples } = inspection;
  const number = (n: number) => n.toLocaleString("en");
  const named = alphabet.common.map(({ character }) => escaped(character)).join(" ");
  const lines = [
    ...renderLengths(inspection, unit),
    `${number(tokens)} tokens of a vocabulary of ${vocab_size}`,
    `${number(data.bytes)} bytes read, ${number(data.characters)} UTF-16 units of text kept`,
    `alphabet: ${number(alphabet.characters)} characters, most frequent first: ${named}`,
  ];
  if (!copiesExact) lines.push("the number of copies is an estimate");
  if (long && long.documents > 0) {
    const share = (100 * long.documents / documents).toFixed(1);
    lines.push(
      `${
        number(long.documents)
      } ${unit} (${share} %) are longer than the block of ${long.blockSize} tokens: ` +
        `${(100 * long.cutTokens / tokens).toFixed(1)} % of all tokens do not fit, see \`long\``,
    );
  }
  lines.push(...renderCleanup(cleanup));
  lines.push(`${examples.length === 1 ? "one of them" : `${examples.length} of them`} in tokens:`);
  for (const { tokens, length } of examples) {
    const rest = length > tokens.length ? ` … ${number(length - tokens.length)} more` : "";
    lines.push(`  ${tokens.map(escaped).join("|")}${rest}`);
  }
  return lines;
}

/** Line ends, tabs and controls as JSON writes them, so that an example stays on its line. */
function escaped(text: string): string {
  return text.replace(
    /[\p{Cc}\u2028\u2029]/gu,
    (c) =>
      ({ "\n": "\\n", "\t": "\\t", "\r": "\\r" })[c] ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}
