/** What is not trained on as it lies in the files: one table, for people and for programs. */

import type { CorpusReport } from "./corpus.ts";
import type { LengthCounts } from "./lengths.ts";

/** One way in which data is not trained on as it is. */
export interface CleanupRow {
  /** how many */
  count: number;
  /** of what */
  unit: "documents" | "conversations" | "messages";
  /** what becomes of them */
  effect: "left out" | "changed" | "cut off" | "split" | "kept";
  /** why */
  reason: string;
}

/** What reading left out and changed. */
export function cleanupOf(
  { skipped, cleaned }: Pick<CorpusReport, "skipped" | "cleaned">,
  unit: "documents" | "conversations",
): CleanupRow[] {
  const rows: CleanupRow[] = [];
  for (const [reason, count] of Object.entries(skipped)) {
    rows.push({ count, unit, effect: "left out", reason });
  }
  for (const [reason, count] of Object.entries(cleaned)) {
    if (reason === "empty message kept") {
      rows.push({ count, unit: "messages", effect: "kept", reason: "empty" });
    } else if (reason === "system text kept") {
      rows.push({
        count,
        unit,
        effect: "kept",
        reason: "with system text, which the model's template takes",
      });
    } else rows.push({ count, unit, effect: "changed", reason });
  }
  return rows;
}

/**
 * Documents that repeat others word for word.
 * @param copies how many there are
 * @param leftOut those of them that repeat a held-out one
 */
export function copyRows(
  copies: number,
  unit: "documents" | "conversations",
  leftOut = 0,
): CleanupRow[] {
  const kept = copies - leftOut;
  const rows: CleanupRow[] = [];
  if (kept > 0) rows.push({ count: kept, unit, effect: "kept", reason: "repeat others word for word" });
  if (leftOut > 0) {
    rows.push({ count: leftOut, unit, effect: "left out", reason: "repeat a held-out one word for word" });
  }
  return rows;
}

/**
 * Documents that are longer than a sequence, and those whose answer lies behind its end.
 * @param kept documents that are left
 */
export function longRows(
  counts: LengthCounts,
  kept: number,
  blockSize: number,
  long: "truncate" | "skip" | "split",
  unit: "documents" | "conversations",
): CleanupRow[] {
  const { documents: above } = counts.above(blockSize + 1);
  const effects = { truncate: "cut off", skip: "left out", split: "split" } as const;
  const rows: CleanupRow[] = [];
  if (above > 0) {
    const reason = `longer than the block of ${blockSize} tokens`;
    rows.push({ count: above, unit, effect: effects[long], reason });
  }
  const silent = counts.documents - (long === "skip" ? above : 0) - kept;
  if (silent > 0) {
    rows.push({ count: silent, unit, effect: "left out", reason: "without an answer in the block" });
  }
  return rows;
}

/** The table as lines of text; none where there is nothing to tell. */
export function renderCleanup(rows: readonly CleanupRow[]): string[] {
  if (rows.length === 0) return [];
  const counts = rows.map(({ count }) => count.toLocaleString("en"));
  const width = Math.max(...counts.map((count) => count.length));
  const line = ({ count, unit, effect, reason }: CleanupRow, i: number) =>
    `  ${counts[i]!.padStart(width)} ${count === 1 ? unit.slice(0, -1) : unit} ${effect}: ${reason}`;
  return ["cleanup:", ...rows.map(line)];
}
