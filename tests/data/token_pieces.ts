import type { TokenDocuments } from "../../data/documents.ts";
import { type LongDocuments, type Pieces, piecesOf } from "../../data/tokens/pieces.ts";
import { spansOf } from "../../data/tokens/token_block.ts";
import { storeInMemory, type TokenStore } from "../../data/tokens/token_store.ts";

/** Documents in a store. */
export function storeOf(documents: TokenDocuments): TokenStore {
  const { ids, offsets } = documents;
  return storeInMemory([{ offsets, spans: spansOf(documents), ids }]);
}

/** Numbers from 0. */
export function range(n: number): Uint32Array {
  return Uint32Array.from({ length: n }, (_, i) => i);
}

/** Pieces of documents: of all of them, or of some. */
export function pieces(
  documents: TokenDocuments,
  indices: Uint32Array = range(documents.offsets.length - 1),
  blockSize = 1000,
  long: LongDocuments = "truncate",
): Pieces {
  return piecesOf(storeOf(documents), indices, blockSize, long);
}

/** The ids of all pieces. */
export function idsOf(all: Pieces): number[][] {
  return Array.from({ length: all.count }, (_, i) => [...all.ids(i)]);
}
