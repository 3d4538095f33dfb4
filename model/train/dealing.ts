/**
 * Documents of a step dealt out so that its micro-batches take about as long as each other: ranks wait for the slowest, and
 * documents differ in length. Which micro-batch gets a document depends on lengths alone, not on how many ranks there are.
 */
import type { PackedDocuments } from "../../device/device.ts";

/** Micro-batches among which documents are dealt out; of more, some neighbours at a time. */
const GROUP = 64;

/** Some micro-batches of a step. */
export interface Share {
  /** of the whole step */
  microBatches: number;
  /** those that are wanted: `first` … `first + count` */
  first: number;
  count: number;
}

/** A document of some batch. */
interface Dealt {
  tokens: Uint32Array;
  targets: Uint32Array;
  /** see `PackedDocuments` */
  weights: Float32Array | undefined;
  cost: number;
}

/**
 * Deals out the documents of a step.
 * @param batch gives micro-batch i of the step as it was drawn; may reuse its arrays
 * @param costOf what a document of so many tokens costs to compute
 * @returns micro-batches `first` … `first + count` of the step
 */
export function dealtBatches(
  { microBatches, first, count }: Share,
  batch: (i: number) => PackedDocuments,
  costOf: (tokens: number) => number,
): PackedDocuments[] {
  const dealt: PackedDocuments[] = [];
  for (let group = Math.floor(first / GROUP) * GROUP; group < first + count; group += GROUP) {
    const size = Math.min(GROUP, microBatches - group);
    const batches = Array.from({ length: size }, (_, i) => {
      const packed = batch(group + i);
      return { documents: documentsOf(packed, costOf), regularization: packed.regularization };
    });
    const drawn = batches.map(({ documents }) => documents);
    const hands = deal(drawn.flat(), size, Math.max(...drawn.map((documents) => documents.length)));
    for (let i = Math.max(first, group); i < Math.min(first + count, group + size); i++) {
      const { regularization } = batches[i - group]!;
      dealt.push({ ...pack(hands[i - group]!), ...(regularization ? { regularization } : {}) });
    }
  }
  return dealt;
}

function documentsOf(
  { tokens, targets, starts, weights }: PackedDocuments,
  costOf: (n: number) => number,
): Dealt[] {
  return Array.from({ length: starts.length - 1 }, (_, i) => {
    const [from, to] = [starts[i]!, starts[i + 1]!];
    return {
      tokens: tokens.slice(from, to),
      targets: targets.slice(from, to),
      weights: weights?.slice(from, to),
      cost: costOf(to - from),
    };
  });
}

/** The costliest first, each to the hand with the least so far that has room (Graham 1969). */
function deal(documents: Dealt[], hands: number, most: number): Dealt[][] {
  const dealt = Array.from({ length: hands }, () => ({ documents: [] as Dealt[], cost: 0 }));
  for (const document of documents.toSorted((a, b) => b.cost - a.cost)) { // a stable sort
    const open = dealt.filter(({ documents }) => documents.length < most);
    const least = open.reduce((least, hand) => hand.cost < least.cost ? hand : least);
    least.documents.push(document);
    least.cost += document.cost;
  }
  return evenTree(dealt).map(({ documents }) => documents);
}

/**
 * An order in which the halves of any even part cost about the same: the costliest beside the cheapest, then the pairs
 * like that, and so on.
 */
function evenTree<Hand extends { cost: number }>(hands: Hand[]): Hand[] {
  let parts = hands.map((hand) => ({ hands: [hand], cost: hand.cost }));
  while (parts.length > 1 && parts.length % 2 === 0) {
    const sorted = parts.toSorted((a, b) => b.cost - a.cost);
    parts = sorted.slice(0, sorted.length / 2).map((a, i) => {
      const b = sorted[sorted.length - 1 - i]!;
      return { hands: [...a.hands, ...b.hands], cost: a.cost + b.cost };
    });
  }
  return parts.flatMap((part) => part.hands);
}

function pack(documents: Dealt[]): PackedDocuments {
  const starts = new Uint32Array(documents.length + 1);
  documents.forEach(({ tokens }, i) => starts[i + 1] = starts[i]! + tokens.length);
  const [tokens, targets] = [new Uint32Array(starts.at(-1)!), new Uint32Array(starts.at(-1)!)];
  const weights = documents[0]?.weights && new Float32Array(tokens.length);
  documents.forEach((document, i) => {
    tokens.set(document.tokens, starts[i]);
    targets.set(document.targets, starts[i]);
    weights?.set(document.weights!, starts[i]);
  });
  return { tokens, targets, starts, ...(weights ? { weights } : {}) };
}
